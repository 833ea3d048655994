"""Waiting and waking between the two ends of an audio stream."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import stream_writer

from wavernn_trt.runtime.errors import ExecutorError
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer

PATIENCE = 60
"""Seconds after which a test that waits has failed."""


def waveform(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, count).astype(np.float32)


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads switch so often that races show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize(("chunk", "known"), [(100, True), (100, False), (330, True)])
def test_a_writer_that_pauses_continues_and_no_samples_are_lost(
    frequent_switches: None, chunk: int, known: bool, views: bool
) -> None:
    samples = waveform(60_000)
    # Only two chunks fit, so that the ring is nearly always full or empty.
    stream = AudioStream(16000, 150, seconds=1e-3, chunk=chunk if known else None)
    assert stream.capacity in (512, 1024)
    with stream_writer.Writer(stream, samples, chunk) as writer:
        waited = iter(lambda: stream.read(timeout=PATIENCE).tobytes(), b"")
        frames = [one.tobytes() for one in stream.frames_view()] if views else list(waited)
    assert b"".join(frames) == samples.tobytes()
    assert {len(one) // 4 for one in frames[:-1]} == {150}
    assert stream.overruns == 0
    assert writer.pauses > 0
    assert not writer.cancelled.is_set()


@pytest.mark.parametrize("size", [1, 64])
def test_no_wake_up_is_lost(frequent_switches: None, size: int) -> None:
    """Both sides wait for each other after every frame, so that one lost wake-up would stop both."""
    rounds, stream, requested = 4_000, AudioStream(16000, size, chunk=size), threading.Semaphore(0)
    unanswered: list[int] = []

    def answer() -> None:
        for i in range(rounds):
            if not requested.acquire(timeout=PATIENCE):
                unanswered.append(i)
                return
            stream.sink.write(np.full(size, i, np.float32))
        stream.sink.finish(None)

    thread = threading.Thread(target=answer)
    thread.start()
    for i in range(rounds):
        requested.release()
        assert stream.read(timeout=PATIENCE)[-1] == i
    assert len(stream.read(timeout=PATIENCE)) == 0, "the end wakes as well"
    thread.join(PATIENCE)
    assert not unanswered


def test_only_a_writer_that_lacked_room_is_called() -> None:
    stream, calls = AudioStream(16000, 256, seconds=1e-3, chunk=400), []
    stream.connect(on_room=lambda: calls.append(stream.sink.room()))
    assert stream.capacity == 1024
    assert stream.sink.room() == 1024
    stream.sink.write(waveform(900))
    stream.read()
    assert calls == [], "the writer did not find too little room"
    assert stream.sink.room() == 380
    stream.read(10)
    assert calls == [], "a chunk does not fit yet"
    stream.read(10)
    assert calls == [400]
    stream.read(10)
    assert calls == [400]


def test_a_writer_that_lacks_room_again_is_called_again() -> None:
    stream, calls = AudioStream(16000, 256, seconds=1e-3, chunk=400), []

    def resume() -> None:
        stream.sink.write(waveform(400))
        calls.append(stream.sink.room())

    stream.connect(on_room=resume)
    stream.sink.write(waveform(1000))
    assert stream.sink.room() == 24
    for _ in range(8):
        stream.read(200, timeout=PATIENCE)
    assert calls == [24] * 4


class Interrupted(RingBuffer):
    """A ring whose reader reads just after its writer has read the amount of room."""

    interrupt: Callable[[], object] | None = None

    @property
    def available_write(self) -> int:
        room, (interrupt, self.interrupt) = super().available_write, (self.interrupt, None)
        if interrupt is not None:
            interrupt()
        return room


def test_room_that_appears_during_the_check_is_not_missed() -> None:
    ring, calls = Interrupted(1024, "float32", 16000), []
    stream = AudioStream(16000, 256, memory=ring, chunk=400)
    stream.connect(on_room=lambda: calls.append("room"))
    stream.sink.write(waveform(900))
    ring.interrupt = lambda: stream.read(300)
    assert stream.sink.room() == 424 or calls == ["room"]


def test_a_writer_that_connects_late_gets_earlier_calls() -> None:
    stream, calls = AudioStream(16000, 256, seconds=1e-3, chunk=400), []
    stream.sink.write(waveform(900))
    assert stream.sink.room() == 124
    stream.read(512)
    stream.close()
    stream.connect(lambda: calls.append("close"), lambda: calls.append("room"))
    assert calls == ["close", "room"]


def test_an_error_wakes_a_waiting_reader(frequent_switches: None) -> None:
    for _ in range(100):
        stream, reading = AudioStream(16000, seconds=1e-3), threading.Event()
        fail = partial(stream.sink.finish, ExecutorError("gone"))
        thread = threading.Thread(target=lambda wait, fail: wait(PATIENCE) and fail(), args=(reading.wait, fail))
        thread.start()
        reading.set()
        with pytest.raises(ExecutorError, match="gone"):
            stream.read(timeout=PATIENCE)
        thread.join(PATIENCE)


def test_closing_ends_a_read_in_another_thread() -> None:
    stream, reading, results = AudioStream(16000), threading.Event(), []

    def read() -> None:
        reading.set()
        results.append(stream.read(timeout=PATIENCE))

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(PATIENCE)
    stream.close()
    thread.join(PATIENCE)
    assert [len(one) for one in results] == [0]


def test_dropping_a_stream_cancels_the_decoding() -> None:
    with stream_writer.Writer(AudioStream(16000, seconds=1e-3), waveform(320), 320, endless=True) as writer:
        gc.collect()
        assert writer.cancelled.wait(PATIENCE)
    stream = AudioStream(16000, seconds=1e-3)
    with stream_writer.Writer(stream, waveform(320), 320, endless=True) as writer:
        for _ in stream:
            break
        del stream
        gc.collect()
        assert writer.cancelled.wait(PATIENCE)


def test_a_dropped_stream_calls_from_a_thread_of_its_own() -> None:
    """It may be collected in any thread, also in one that holds the lock that cancelling needs."""
    lock, called = threading.Lock(), threading.Event()

    def cancel() -> None:
        with lock:
            called.set()

    stream = AudioStream(16000)
    stream.connect(cancel)
    with lock:
        del stream
        gc.collect()
    assert called.wait(PATIENCE)
