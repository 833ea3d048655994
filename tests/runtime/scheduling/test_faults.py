"""Failing and hanging executors: no utterance is lost, none waits for ever, and no samples come twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling import scheduler
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
MakeVocoder = Callable[..., Vocoder]
PATIENCE = 60.0
DAMAGE = RuntimeError("CUDA error 700")


def test_utterances_keep_their_bits_when_a_lane_fails(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    held.failures = {1: DAMAGE, 12: DAMAGE}
    vocoder = make_vocoder(2)
    tickets = [vocoder.submit(Request(mel_of(4, seed), seed)) for seed in range(5)]
    for seed, ticket in enumerate(tickets):
        assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(4, seed), seed=seed))
    counted = vocoder.statistics()
    assert (counted.lost_lanes, counted.failed, counted.done) == (2, 0, 5)
    assert 2 <= counted.restarted <= 4


def test_a_stream_gets_no_samples_twice_when_a_lane_fails(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    held.failures = {3: DAMAGE}
    pieces = list(make_vocoder(1).stream(mel_of(6), seed=2))
    assert np.array_equal(np.concatenate(pieces), plain.vocode(mel_of(6), seed=2))
    assert len(held.rows) > 6


def test_an_utterance_fails_after_two_lanes_failed_with_it_and_the_next_is_decoded(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    held.failures = {1: DAMAGE, 3: DAMAGE}
    vocoder = make_vocoder(1)
    bad, good = vocoder.submit(Request(mel_of(5))), vocoder.submit(Request(mel_of(2)))
    with pytest.raises(ExecutorError, match="RuntimeError: CUDA error 700") as failure:
        bad.result(PATIENCE)
    assert failure.value.__cause__ is DAMAGE
    assert np.array_equal(good.result(PATIENCE), plain.vocode(mel_of(2)))


def test_an_executor_is_given_up_after_three_failures_in_a_row(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    held.failures = dict.fromkeys(range(100), DAMAGE)
    vocoder = make_vocoder(1)
    for ticket in [vocoder.submit(Request(mel_of(1))) for _ in range(5)]:
        with pytest.raises(ExecutorError):
            ticket.result(PATIENCE)
    with pytest.raises(ExecutorError, match="failed 3 times in a row and was given up"):
        vocoder.vocode(mel_of(1))
    assert len(held.rows) == 3


def test_a_lane_that_cannot_be_opened_counts_as_a_failure(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, opened = held.lane, 0

    def fails_once(streams: int) -> Any:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise VocoderError("the device's memory does not suffice")
        return lane(streams)

    monkeypatch.setattr(held, "lane", fails_once)
    assert np.array_equal(make_vocoder(1).vocode(mel_of(1)), plain.vocode(mel_of(1)))
    assert opened == 2


def test_a_lane_that_hangs_while_it_is_opened_is_abandoned(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, clock: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, opening, released = held.lane, threading.Event(), threading.Event()

    def hangs_once(streams: int) -> Any:
        monkeypatch.setattr(held, "lane", lane)
        opening.set()
        released.wait(PATIENCE)
        return lane(streams)

    monkeypatch.setattr(held, "lane", hangs_once)
    vocoder = make_vocoder(1, hang_seconds=PATIENCE)
    ticket = vocoder.submit(Request(mel_of(1)))
    assert opening.wait(PATIENCE)
    clock.skip(11 * PATIENCE)  # opening may take ten times as long as a chunk
    assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(1)))
    assert vocoder.statistics().lost_lanes == 1
    released.set()


def test_lanes_that_are_lost_together_count_as_one_attempt_of_an_utterance(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.hold()
    held.failures = {0: DAMAGE, 1: DAMAGE}
    vocoder = make_vocoder(2, lanes=2)
    both = threading.Barrier(2)

    def together(*_: object) -> None:
        both.wait(PATIENCE)  # both have counted their utterances before one restarts any

    monkeypatch.setattr(scheduler.logger, "warning", together)
    ticket = vocoder.submit(Request(mel_of(20), fold=3200))
    held.wait_for(lambda: len(held.rows) == 2)
    held.allow()
    assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(20), fold=3200))
    counted = vocoder.statistics()
    assert (counted.lost_lanes, counted.restarted) == (2, 1)


def test_a_lane_that_hangs_is_abandoned(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, clock: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(1, hang_seconds=PATIENCE)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(3), 4))
    held.wait_for(lambda: len(held.rows) == 1)
    clock.skip(2 * PATIENCE)
    held.wait_for(lambda: len(held.rows) == 2)  # the second lane's first chunk
    held.allow()
    assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(3), seed=4))
    assert vocoder.statistics().lost_lanes == 1


def test_every_ticket_ends_if_the_executor_always_hangs(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(1, hang_seconds=0.2)
    held.hold()
    tickets = [vocoder.submit(Request(mel_of(3), seed)) for seed in range(4)]
    assert not wait(tickets, PATIENCE).not_done
    for ticket in tickets:
        with pytest.raises(ExecutorError, match=r"does not answer; it had 0\.2 s"):
            ticket.result()


def test_a_conditioner_that_fails_or_hangs_ends_only_the_utterance(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, clock: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, hanging, released = held.condition, threading.Event(), threading.Event()

    def fragile(mel: FloatArray) -> FloatArray:
        if len(mel[0]) == len(mel_of(7)[0]):
            raise MemoryError("no room")
        if len(mel[0]) == len(mel_of(9)[0]):
            hanging.set()
            released.wait(PATIENCE)
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", fragile)
    vocoder = make_vocoder(1, hang_seconds=PATIENCE)
    fails, hangs, fine = (vocoder.submit(Request(mel_of(chunks))) for chunks in (7, 9, 2))
    with pytest.raises(ExecutorError, match="MemoryError: no room"):
        fails.result(PATIENCE)
    assert hanging.wait(PATIENCE)
    clock.skip(2 * PATIENCE)
    with pytest.raises(ExecutorError, match="does not answer"):
        hangs.result(PATIENCE)
    assert np.array_equal(fine.result(PATIENCE), plain.vocode(mel_of(2)))
    released.set()


def test_a_conditioner_that_always_fails_is_given_up_while_another_utterance_is_decoded(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = make_vocoder(4)
    held.hold()
    decoded = vocoder.submit(Request(mel_of(100)))
    held.wait_for(lambda: held.rows)

    def fails(mel: FloatArray) -> FloatArray:
        held.allow(1)  # its chunks are decoded between the failures
        raise DAMAGE

    monkeypatch.setattr(held, "condition", fails)
    for seed in range(3):
        with pytest.raises(ExecutorError, match="RuntimeError: CUDA error 700"):
            vocoder.submit(Request(mel_of(1, seed))).result(PATIENCE)
    with pytest.raises(ExecutorError, match="failed 3 times in a row and was given up"):
        vocoder.submit(Request(mel_of(1)))
    with pytest.raises(ExecutorError, match="CUDA error 700"):
        decoded.result(PATIENCE)


def test_a_conditioner_that_fails_for_some_utterances_fails_those_only(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, good = held.condition, plain.vocode(mel_of(1))

    def fragile(mel: FloatArray) -> FloatArray:
        if len(mel[0]) == len(mel_of(3)[0]):
            raise MemoryError
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", fragile)
    vocoder = make_vocoder(1)
    for _ in range(4):
        with pytest.raises(ExecutorError, match="MemoryError"):
            vocoder.vocode(mel_of(3))
        assert np.array_equal(vocoder.vocode(mel_of(1)), good)
    assert vocoder.statistics().failed == 4


def test_a_mel_that_the_executor_refuses_is_no_failure_of_the_executor(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = held.condition

    def refuses(mel: FloatArray) -> FloatArray:
        if len(mel[0]) == len(mel_of(3)[0]):
            raise VocoderError("mel: found 4 frames, this engine takes 8 to 800")
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", refuses)
    vocoder = make_vocoder(1)
    for _ in range(5):
        with pytest.raises(VocoderError, match="this engine takes 8 to 800"):
            vocoder.vocode(mel_of(3))
    assert np.array_equal(vocoder.vocode(mel_of(1)), plain.vocode(mel_of(1)))


def test_failures_in_blocks_of_a_long_mel_count_towards_giving_the_executor_up(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, runs = held.condition, threading.Lock()
    allowed = 0

    def fails_later(mel: FloatArray) -> FloatArray:
        nonlocal allowed
        with runs:
            allowed -= 1
            if allowed < 0:
                raise DAMAGE
        return condition(mel)  # type: ignore[no-any-return]

    vocoder = make_vocoder(1)
    mel = np.resize(mel_of(250), (80, 300))
    monkeypatch.setattr(held, "condition", fails_later)
    for _ in range(3):
        allowed = 0
        with pytest.raises(ExecutorError, match="CUDA error 700"):
            vocoder.vocode(mel)
    with pytest.raises(ExecutorError, match="failed 3 times in a row and was given up"):
        vocoder.vocode(mel)


def test_labels_survive_the_loss_of_a_lane(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    expected = plain.labels(mel_of(4), seed=3)
    held.failures = {1: DAMAGE}
    vocoder = make_vocoder(1)
    found = vocoder.labels(mel_of(4), seed=3)
    assert found.dtype == expected.dtype == np.int32
    assert np.array_equal(found, expected)
    counted = vocoder.statistics()
    assert (counted.lost_lanes, counted.restarted, counted.done) == (1, 1, 1)


def test_a_failing_progress_callback_ends_its_own_utterance_only(
    make_vocoder: MakeVocoder, plain: Vocoder, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(3)

    def fails(steps: int) -> None:
        raise ZeroDivisionError

    failing = vocoder.submit(Request(mel_of(4)), progress=fails)
    good = vocoder.submit(Request(mel_of(4)))
    with pytest.raises(ZeroDivisionError):
        failing.result(PATIENCE)
    assert np.array_equal(good.result(PATIENCE), plain.vocode(mel_of(4)))
    assert vocoder.statistics().lost_lanes == 0


def test_many_cancellations_leave_nothing_in_flight(make_vocoder: MakeVocoder, plain: Vocoder, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(4, lanes=2, queue=32)
    mels = [mel_of(chunks, chunks) for chunks in (1, 2, 3, 20)]
    kept: list[tuple[int, Any]] = []

    def submit_and_cancel(number: int) -> None:
        order = random.Random(number)
        for _ in range(60):
            choice = order.randrange(4)
            urgency = order.choice(["interactive", "batch"])
            ticket = vocoder.submit(Request(mels[choice], fold=order.choice([None, 1000])), urgency=urgency)
            if order.random() < 0.9 or choice == 3:
                if order.random() < 0.5:
                    wait([ticket], order.random() / 50)
                ticket.cancel()
            else:
                kept.append((choice, ticket))

    threads = [threading.Thread(target=submit_and_cancel, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for choice, ticket in kept:
        assert len(ticket.result(PATIENCE)) == len(mels[choice][0]) * 200
    vocoder.vocode(mels[0])  # after it, every slot has been checked
    after = vocoder.statistics()
    assert (after.queue, after.busy, after.under_way, after.conditioning_bytes) == (0, 0, 0, 0)
    assert after.done + after.cancelled == 241
    assert after.failed == 0
