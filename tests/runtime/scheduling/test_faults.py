"""What fails, hangs or is given up: nothing is lost, nothing waits for ever, and nothing is spoken twice."""

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
Speak = Callable[..., Vocoder]
PATIENCE = 60.0
DAMAGE = RuntimeError("CUDA error 700")


def test_a_lane_that_fails_costs_no_utterance_and_no_bit(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    held.failures = {1: DAMAGE, 12: DAMAGE}
    vocoder = speak(2)
    tickets = [vocoder.submit(Request(mel_of(4, seed), seed)) for seed in range(5)]
    for seed, ticket in enumerate(tickets):
        assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(4, seed), seed=seed))
    counted = vocoder.statistics()
    assert (counted.lost_lanes, counted.failed, counted.done) == (2, 0, 5)
    assert 2 <= counted.restarted <= 4


def test_a_listener_is_not_given_samples_twice(speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel) -> None:
    held.failures = {3: DAMAGE}
    heard = list(speak(1).stream(mel_of(6), seed=2))
    assert np.array_equal(np.concatenate(heard), plain.vocode(mel_of(6), seed=2))
    assert len(held.rows) > 6


def test_an_utterance_that_two_lanes_fail_with_is_given_up_and_the_next_is_spoken(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    held.failures = {1: DAMAGE, 3: DAMAGE}
    vocoder = speak(1)
    bad, good = vocoder.submit(Request(mel_of(5))), vocoder.submit(Request(mel_of(2)))
    with pytest.raises(ExecutorError, match="RuntimeError: CUDA error 700") as failure:
        bad.result(PATIENCE)
    assert failure.value.__cause__ is DAMAGE
    assert np.array_equal(good.result(PATIENCE), plain.vocode(mel_of(2)))


def test_an_executor_that_fails_again_and_again_is_given_up(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    held.failures = dict.fromkeys(range(100), DAMAGE)
    vocoder = speak(1)
    for ticket in [vocoder.submit(Request(mel_of(1))) for _ in range(5)]:
        with pytest.raises(ExecutorError):
            ticket.result(PATIENCE)
    with pytest.raises(ExecutorError, match="failed 3 times in a row and was given up"):
        vocoder.vocode(mel_of(1))
    assert len(held.rows) == 3


def test_a_lane_that_cannot_be_opened_is_a_failure_like_another(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, opened = held.lane, 0

    def fails_once(streams: int) -> Any:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise VocoderError("the device's memory does not suffice")
        return lane(streams)

    monkeypatch.setattr(held, "lane", fails_once)
    assert np.array_equal(speak(1).vocode(mel_of(1)), plain.vocode(mel_of(1)))
    assert opened == 2


def test_a_lane_that_never_opens_is_left_behind(
    speak: Speak, plain: Vocoder, held: Any, clock: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, opening, released = held.lane, threading.Event(), threading.Event()

    def hangs_once(streams: int) -> Any:
        monkeypatch.setattr(held, "lane", lane)
        opening.set()
        released.wait(PATIENCE)
        return lane(streams)

    monkeypatch.setattr(held, "lane", hangs_once)
    vocoder = speak(1, hang_seconds=PATIENCE)
    ticket = vocoder.submit(Request(mel_of(1)))
    assert opening.wait(PATIENCE)
    clock.skip(11 * PATIENCE)  # it may take ten times as long as a chunk
    assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(1)))
    assert vocoder.statistics().lost_lanes == 1
    released.set()


def test_lanes_that_are_lost_together_strike_an_utterance_once(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.hold()
    held.failures = {0: DAMAGE, 1: DAMAGE}
    vocoder = speak(2, lanes=2)
    both = threading.Barrier(2)

    def together(*_: object) -> None:
        both.wait(PATIENCE)  # each lane has counted its utterances before either starts any again

    monkeypatch.setattr(scheduler.logger, "warning", together)
    ticket = vocoder.submit(Request(mel_of(20), fold=3200))
    held.wait_for(lambda: len(held.rows) == 2)
    held.allow()
    assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(20), fold=3200))
    counted = vocoder.statistics()
    assert (counted.lost_lanes, counted.restarted) == (2, 1)


def test_an_executor_that_hangs_is_left_behind(
    speak: Speak, plain: Vocoder, held: Any, clock: Any, mel_of: MakeMel
) -> None:
    vocoder = speak(1, hang_seconds=PATIENCE)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(3), 4))
    held.wait_for(lambda: len(held.rows) == 1)
    clock.skip(2 * PATIENCE)
    held.wait_for(lambda: len(held.rows) == 2)  # the second lane's first chunk
    held.allow()
    assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(3), seed=4))
    assert vocoder.statistics().lost_lanes == 1


def test_one_that_goes_on_hanging_ends_every_wait(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    vocoder = speak(1, hang_seconds=0.2)
    held.hold()
    tickets = [vocoder.submit(Request(mel_of(3), seed)) for seed in range(4)]
    assert not wait(tickets, PATIENCE).not_done
    for ticket in tickets:
        with pytest.raises(ExecutorError, match=r"does not answer; it had 0\.2 s"):
            ticket.result()


def test_a_conditioner_that_fails_or_hangs_costs_only_its_own(
    speak: Speak, plain: Vocoder, held: Any, clock: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
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
    vocoder = speak(1, hang_seconds=PATIENCE)
    fails, hangs, speaks = (vocoder.submit(Request(mel_of(chunks))) for chunks in (7, 9, 2))
    with pytest.raises(ExecutorError, match="MemoryError: no room"):
        fails.result(PATIENCE)
    assert hanging.wait(PATIENCE)
    clock.skip(2 * PATIENCE)
    with pytest.raises(ExecutorError, match="does not answer"):
        hangs.result(PATIENCE)
    assert np.array_equal(speaks.result(PATIENCE), plain.vocode(mel_of(2)))
    released.set()


def test_a_conditioner_that_fails_for_every_utterance_is_given_up_though_another_is_being_decoded(
    speak: Speak, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = speak(4)
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
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, good = held.condition, plain.vocode(mel_of(1))

    def fragile(mel: FloatArray) -> FloatArray:
        if len(mel[0]) == len(mel_of(3)[0]):
            raise MemoryError
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", fragile)
    vocoder = speak(1)
    for _ in range(4):
        with pytest.raises(ExecutorError, match="MemoryError"):
            vocoder.vocode(mel_of(3))
        assert np.array_equal(vocoder.vocode(mel_of(1)), good)
    assert vocoder.statistics().failed == 4


def test_a_mel_that_the_executor_does_not_take_is_no_failure_of_the_executor(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = held.condition

    def refuses(mel: FloatArray) -> FloatArray:
        if len(mel[0]) == len(mel_of(3)[0]):
            raise VocoderError("mel: found 4 frames, this engine takes 8 to 800")
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", refuses)
    vocoder = speak(1)
    for _ in range(5):
        with pytest.raises(VocoderError, match="this engine takes 8 to 800"):
            vocoder.vocode(mel_of(3))
    assert np.array_equal(vocoder.vocode(mel_of(1)), plain.vocode(mel_of(1)))


def test_blocks_of_a_long_mel_that_cannot_be_conditioned_end_it_and_count_as_failures(
    speak: Speak, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
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

    vocoder = speak(1)
    mel = np.resize(mel_of(250), (80, 300))
    monkeypatch.setattr(held, "condition", fails_later)
    for _ in range(3):
        allowed = 0
        with pytest.raises(ExecutorError, match="CUDA error 700"):
            vocoder.vocode(mel)
    with pytest.raises(ExecutorError, match="failed 3 times in a row and was given up"):
        vocoder.vocode(mel)


def test_labels_are_decoded_like_waveforms_and_survive_the_loss_of_a_lane(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    expected = plain.labels(mel_of(4), seed=3)
    held.failures = {1: DAMAGE}
    vocoder = speak(1)
    found = vocoder.labels(mel_of(4), seed=3)
    assert found.dtype == expected.dtype == np.int32
    assert np.array_equal(found, expected)
    counted = vocoder.statistics()
    assert (counted.lost_lanes, counted.restarted, counted.done) == (1, 1, 1)


def test_labels_of_an_executor_that_hangs_are_not_waited_for(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    vocoder = speak(1, hang_seconds=0.2)
    held.hold()
    with pytest.raises(ExecutorError, match=r"does not answer; it had 0\.2 s"):
        vocoder.labels(mel_of(2))


class Refusing:
    """A sink that fails with what it is given."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []

    def room(self) -> None:
        pass

    def urgent(self) -> bool:
        return False

    def write(self, samples: FloatArray) -> None:
        raise OSError(28, "No space left on device")

    def finish(self, error: BaseException | None) -> None:
        self.errors.append(error)


def test_a_sink_or_a_watcher_that_fails_ends_its_own_utterance_only(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder, sink = speak(3), Refusing()

    def watcher(steps: int) -> None:
        raise ZeroDivisionError

    full = vocoder.submit(Request(mel_of(4)), sink=sink)
    watched = vocoder.submit(Request(mel_of(4)), progress=watcher)
    good = vocoder.submit(Request(mel_of(4)))
    with pytest.raises(OSError, match="No space left"):
        full.result(PATIENCE)
    with pytest.raises(ZeroDivisionError):
        watched.result(PATIENCE)
    assert np.array_equal(good.result(PATIENCE), plain.vocode(mel_of(4)))
    assert [type(error) for error in sink.errors] == [OSError]
    assert vocoder.statistics().lost_lanes == 0


def test_a_storm_of_cancellations_leaves_nothing_behind(speak: Speak, plain: Vocoder, mel_of: MakeMel) -> None:
    vocoder = speak(4, lanes=2, queue=32)
    mels = [mel_of(chunks, chunks) for chunks in (1, 2, 3, 20)]
    kept: list[tuple[int, Any]] = []

    def storm(number: int) -> None:
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

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for choice, ticket in kept:
        assert len(ticket.result(PATIENCE)) == len(mels[choice][0]) * 200
    vocoder.vocode(mels[0])  # behind which every slot has been looked at
    after = vocoder.statistics()
    assert (after.queue, after.busy, after.under_way, after.conditioning_bytes) == (0, 0, 0, 0)
    assert after.done + after.cancelled == 241
    assert after.failed == 0
