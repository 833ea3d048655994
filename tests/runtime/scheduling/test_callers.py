"""Sinks, deadlines and interruptions of callers: what is theirs goes wrong for them alone, and every ticket ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import DeadlineError, ExecutorError, VocoderError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
Speak = Callable[..., Vocoder]
PATIENCE = 60.0


class Sink:
    """Takes everything, but for one method that raises."""

    def __init__(self, raises: str = "") -> None:
        self.raises = raises
        self.samples: list[FloatArray] = []

    def __len__(self) -> int:
        return sum(map(len, self.samples))

    def room(self) -> None:
        self.stumble("room")

    def urgent(self) -> bool:
        self.stumble("urgent")
        return True

    def write(self, samples: FloatArray) -> None:
        self.samples.append(samples)

    def finish(self, error: BaseException | None) -> None:
        self.stumble("finish")

    def stumble(self, method: str) -> None:
        if method == self.raises:
            raise OSError(5, f"in {method}")


@pytest.mark.parametrize("method", ["room", "urgent", "finish"])
def test_a_sink_that_fails_at_a_question_ends_its_own_utterance_only(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel, method: str
) -> None:
    vocoder, sink = speak(3), Sink()
    held.hold()
    good = vocoder.submit(Request(mel_of(4)))
    held.wait_for(lambda: held.rows)
    bad = vocoder.submit(Request(mel_of(4, 1)), urgency="interactive", sink=sink)
    sink.raises = method
    held.allow()
    with pytest.raises(OSError, match=f"in {method}"):
        bad.result(PATIENCE)
    assert np.array_equal(good.result(PATIENCE), plain.vocode(mel_of(4)))
    after = vocoder.statistics()
    assert (after.lost_lanes, after.restarted, after.failed, after.done) == (0, 0, 1, 1)


def test_a_sink_that_fails_at_its_cancellation_does_not_stop_conditioning(
    speak: Speak, plain: Vocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = held.condition

    def fails_once(mel: FloatArray) -> FloatArray:
        monkeypatch.setattr(held, "condition", condition)
        raise MemoryError

    monkeypatch.setattr(held, "condition", fails_once)
    vocoder = speak(1)
    with pytest.raises(ExecutorError, match="MemoryError"):
        vocoder.submit(Request(mel_of(1)), sink=Sink("finish")).result(PATIENCE)
    assert np.array_equal(vocoder.submit(Request(mel_of(1))).result(PATIENCE), plain.vocode(mel_of(1)))


def test_a_sink_that_is_still_empty_is_a_sink(speak: Speak, plain: Vocoder, mel_of: MakeMel) -> None:
    sink = Sink()
    assert not len(speak(1).submit(Request(mel_of(2)), sink=sink).result(PATIENCE))
    assert np.array_equal(np.concatenate(sink.samples), plain.vocode(mel_of(2)))


class Closed(Sink):
    """Takes nothing yet."""

    def room(self) -> int:  # type: ignore[override]
        return 0


def test_who_is_interactive_does_not_wait_for_a_lane_that_is_full(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    held.slots = 2
    vocoder = speak(2, lanes=2)
    scheduler = vocoder._scheduler
    changed = scheduler._flight.changed

    def streams(urgency: Any) -> list[int]:
        return [lane.count(urgency) for lane in scheduler._lanes]

    def wait_until(urgency: Any, expected: list[int]) -> None:
        with changed:
            assert changed.wait_for(lambda: streams(urgency) == expected, PATIENCE), streams(urgency)

    for seed in range(4):
        vocoder.submit(Request(mel_of(9, seed)), sink=Closed())
    wait_until("batch", [2, 2])
    for stream in list(scheduler._lanes[0].streams):
        assert stream.utterance.ticket.cancel()
    for seed in range(2):
        vocoder.submit(Request(mel_of(9, seed)), sink=Closed(), urgency="interactive")
    wait_until("interactive", [2, 0])
    assert streams("batch") == [0, 2]


def test_folds_that_are_nearly_done_are_not_dropped(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    vocoder = speak(4)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(12), fold=1920), deadline=PATIENCE)
    held.allow(6)
    held.wait_for(lambda: len(held.rows) == 7)
    flight = vocoder._scheduler._flight
    with flight.lock:
        (utterance,) = flight.utterances
        longest = max(fold.stop - fold.first for fold in utterance.folds)
        chunk = PATIENCE / (longest / vocoder.chunk)  # so slow that the whole of a fold would not fit any more
        flight.counters._chunk_seconds.clear()
        flight.counters._chunk_seconds.append(chunk)
    flight.drop_late()
    held.allow()
    assert len(ticket.result(PATIENCE)) == mel_of(12).shape[1] * 200


def test_a_chunk_under_way_counts_as_nearly_done(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    vocoder = speak(1)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(1)), deadline=PATIENCE)
    held.wait_for(lambda: held.rows)
    flight = vocoder._scheduler._flight
    with flight.lock:
        flight.counters._chunk_seconds.append(2 * PATIENCE)
    flight.drop_late()
    held.allow()
    assert len(ticket.result(PATIENCE)) == 200


def test_waiting_for_room_ends_with_the_deadline(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    vocoder = speak(1, queue=1)
    held.hold()
    first = vocoder.submit(Request(mel_of(1)))
    held.wait_for(lambda: held.rows)
    vocoder.submit(Request(mel_of(1)))
    found: list[BaseException] = []

    def ask() -> None:
        try:
            vocoder.submit(Request(mel_of(1)), deadline=0.05)
        except DeadlineError as error:
            found.append(error)

    waiting = threading.Thread(target=ask, daemon=True)
    waiting.start()
    waiting.join(PATIENCE)
    assert "the queue had no room" in str(found[0])
    held.allow()
    first.result(PATIENCE)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to threads")
def test_who_is_interrupted_leaves_nothing_under_way(speak: Speak, held: Any, mel_of: MakeMel) -> None:
    vocoder, main = speak(1), threading.main_thread().ident
    assert main is not None
    held.hold()

    def interrupt() -> None:
        held.wait_for(lambda: held.rows)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        vocoder.vocode(mel_of(50))
    assert vocoder.statistics().cancelled == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_while_a_thread_had_the_lock_is_told_too(plain: Vocoder, mel_of: MakeMel) -> None:
    mel, taken, forked = mel_of(1), threading.Event(), threading.Event()

    def hold() -> None:
        with plain._scheduler._flight.lock:
            taken.set()
            forked.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # ends a child that waits for the lock
        code = 1
        try:
            plain.vocode(mel)
        except VocoderError as error:
            code = 0 if "load it in each process" in str(error) else 2
        finally:
            os._exit(code)
    forked.set()
    holder.join(PATIENCE)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
