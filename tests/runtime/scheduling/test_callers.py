"""Failing sinks, deadlines and interruptions: they end their own utterance only, and every ticket ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from listening_sink import ListeningSink
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import DeadlineError, ExecutorError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
MakeVocoder = Callable[..., Vocoder]
PATIENCE = 60.0


@pytest.mark.parametrize("method", ["room", "urgent", "write", "finish"])
def test_a_failing_sink_ends_its_own_utterance_only(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel, method: Any
) -> None:
    vocoder, sink = make_vocoder(3), ListeningSink()
    held.hold()
    good = vocoder.submit(Request(mel_of(4)))
    held.wait_for(lambda: held.rows)
    bad = vocoder.submit(Request(mel_of(4, 1)), urgency="interactive", sink=sink)
    sink.raises = method
    held.allow()
    with pytest.raises(OSError, match=f"in {method}"):
        bad.result(PATIENCE)
    assert np.array_equal(good.result(PATIENCE), plain.vocode(mel_of(4)))
    if method != "finish":
        assert [type(error) for error in sink.errors] == [OSError]
    after = vocoder.statistics()
    assert (after.lost_lanes, after.restarted, after.failed, after.done) == (0, 0, 1, 1)


def test_a_sink_that_fails_in_finish_does_not_stop_conditioning(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = held.condition

    def fails_once(mel: FloatArray) -> FloatArray:
        monkeypatch.setattr(held, "condition", condition)
        raise MemoryError

    monkeypatch.setattr(held, "condition", fails_once)
    vocoder = make_vocoder(1)
    with pytest.raises(ExecutorError, match="MemoryError"):
        vocoder.submit(Request(mel_of(1)), sink=ListeningSink(raises="finish")).result(PATIENCE)
    assert np.array_equal(vocoder.submit(Request(mel_of(1))).result(PATIENCE), plain.vocode(mel_of(1)))


def test_a_sink_with_length_zero_is_used(make_vocoder: MakeVocoder, plain: Vocoder, mel_of: MakeMel) -> None:
    sink = ListeningSink()
    assert not len(make_vocoder(1).submit(Request(mel_of(2)), sink=sink).result(PATIENCE))
    assert np.array_equal(sink.waveform, plain.vocode(mel_of(2)))


def test_an_interactive_utterance_takes_a_free_slot_of_another_lane(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    held.slots = 2
    vocoder = make_vocoder(2, lanes=2)
    scheduler = vocoder._scheduler
    changed = scheduler._flight.changed

    def streams(urgency: Any) -> list[int]:
        return [lane.count(urgency) for lane in scheduler._lanes]

    def wait_until(urgency: Any, expected: list[int]) -> None:
        with changed:
            assert changed.wait_for(lambda: streams(urgency) == expected, PATIENCE), streams(urgency)

    for seed in range(4):
        vocoder.submit(Request(mel_of(9, seed)), sink=ListeningSink(0))
    wait_until("batch", [2, 2])
    for stream in list(scheduler._lanes[0].streams):
        assert stream.utterance.ticket.cancel()
    for seed in range(2):
        vocoder.submit(Request(mel_of(9, seed)), sink=ListeningSink(0), urgency="interactive")
    wait_until("interactive", [2, 0])
    assert streams("batch") == [0, 2]


def test_folds_that_can_end_before_the_deadline_are_not_dropped(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(4)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(12), fold=1920), deadline=PATIENCE)
    held.allow(6)
    held.wait_for(lambda: len(held.rows) == 7)
    flight = vocoder._scheduler._flight
    with flight.lock:
        (utterance,) = flight.utterances
        longest = max(fold.stop - fold.first for fold in utterance.folds)
        chunk = PATIENCE / (longest / vocoder.chunk)  # so slow that a whole fold would not fit
        flight.counters._chunk_seconds.clear()
        flight.counters._chunk_seconds.append(chunk)
    flight.drop_late()
    held.allow()
    assert len(ticket.result(PATIENCE)) == mel_of(12).shape[1] * 200


def test_an_utterance_in_its_last_chunk_is_not_dropped(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(1)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(1)), deadline=PATIENCE)
    held.wait_for(lambda: held.rows)
    flight = vocoder._scheduler._flight
    with flight.lock:
        flight.counters._chunk_seconds.append(2 * PATIENCE)
    flight.drop_late()
    held.allow()
    assert len(ticket.result(PATIENCE)) == 200


def test_waiting_for_room_ends_with_the_deadline(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(1, queue=1)
    held.hold()
    first = vocoder.submit(Request(mel_of(1)))
    held.wait_for(lambda: held.rows)
    vocoder.submit(Request(mel_of(1)))
    found: list[BaseException] = []

    def submit() -> None:
        try:
            vocoder.submit(Request(mel_of(1)), deadline=0.05)
        except DeadlineError as error:
            found.append(error)

    waiting = threading.Thread(target=submit, daemon=True)
    waiting.start()
    waiting.join(PATIENCE)
    assert "the queue had no room" in str(found[0])
    held.allow()
    first.result(PATIENCE)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to threads")
def test_an_interrupted_caller_leaves_nothing_in_flight(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder, main = make_vocoder(1), threading.main_thread().ident
    assert main is not None
    held.hold()

    def interrupt() -> None:
        held.wait_for(lambda: held.rows)
        (utterance,) = vocoder._scheduler._flight.utterances
        while not utterance.ticket._condition._waiters:  # until the caller waits for the waveform
            pass
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        vocoder.vocode(mel_of(50))
    assert vocoder.statistics().cancelled == 1
