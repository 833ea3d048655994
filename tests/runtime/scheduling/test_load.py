"""Many utterances of mixed lengths: slots stay full, and every waveform has the bits it has alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_voice import SAMPLE_MEL

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

UTTERANCES, SLOTS = 160, 32
STEPS = 320
"""Steps of a chunk."""


@pytest.fixture(scope="module")
def requests(directory: ModelDirectory) -> list[Request]:
    """Requests of 0.02 to 1 s, uniform on a logarithmic scale, in random order."""
    order = np.random.default_rng(0)
    frames = np.exp(order.uniform(math.log(1), math.log(80), UTTERANCES)).astype(int)
    mel = np.load(SAMPLE_MEL)
    starts = order.integers(0, mel.shape[1] - frames)
    cuts = zip(starts, frames, strict=True)
    return [Request(mel[:, start : start + length], seed) for seed, (start, length) in enumerate(cuts)]


@pytest.mark.slow
def test_slots_are_full_while_utterances_wait_and_all_bits_are_those_alone(
    make_vocoder: Callable[..., Vocoder], plain: Vocoder, held: Any, requests: list[Request]
) -> None:
    busy = make_vocoder(SLOTS)
    flight = busy._scheduler._flight
    held.hold()

    def allow_when_conditioned() -> None:
        with flight.changed:
            assert flight.changed.wait_for(lambda: len(flight.ready) == SLOTS, 60)
        held.allow()

    threading.Thread(target=allow_when_conditioned, daemon=True).start()
    found = {number: ticket.result() for number, ticket in busy.vocode_many(requests, order="completed")}
    assert sorted(found) == list(range(UTTERANCES))
    for number, request in enumerate(requests):
        # The beginning of each, and all of some: alone, it takes longer than all of them together.
        begin = request if number % 20 == 0 else Request(request.mel, request.seed, samples=2 * STEPS)
        alone = plain.submit(begin).result()
        assert np.array_equal(found[number][: len(alone)], alone)
        assert len(found[number]) == np.shape(request.mel)[1] * 200
    statistics = busy.statistics()
    assert statistics.occupancy >= 0.95
    assert (statistics.queue, statistics.busy, statistics.restarted) == (0, 0, 0)
    # In fixed batches, each padded to its longest, it would have been nearly twice the chunks.
    chunks = [math.ceil(np.shape(request.mel)[1] * 200 / STEPS) for request in requests]
    padded = sum(max(chunks[first : first + SLOTS]) for first in range(0, UTTERANCES, SLOTS))
    assert padded >= 1.8 * statistics.chunks


def test_hundreds_of_short_utterances_leave_nothing_in_the_scheduler(
    make_vocoder: Callable[..., Vocoder], requests: list[Request]
) -> None:
    busy = make_vocoder(SLOTS)
    mel = np.asarray(requests[0].mel)[:, :1]
    many = (Request(mel, seed) for seed in range(300))
    assert sum(len(ticket.result()) for _, ticket in busy.vocode_many(many, order="completed")) == 300 * 200
    scheduler = busy._scheduler
    assert not scheduler._flight.utterances
    assert not scheduler._flight._dated
    assert not any(lane.streams for lane in scheduler._lanes)
    assert len(scheduler._threads) <= 4  # watchdog, lane, conditioner, and conditioner of blocks
    assert busy.statistics().conditioning_bytes == 0
