from __future__ import annotations

import gc
import platform
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.runtime.audio_stream import AudioStream, frame_samples
from wavernn_trt.runtime.errors import DeadlineError, ExecutorError, VocoderError
from wavernn_trt.runtime.pcm import Int16Encoder, to_int16
from wavernn_trt.runtime.ring_buffer import RingBuffer
from wavernn_trt.runtime.ring_header import ENCODINGS, HEADER_BYTES, Encoding
from wavernn_trt.runtime.scheduling.sinks import Sink
from wavernn_trt.runtime.stream_sink import StreamSink

PATIENCE = 60
"""Seconds after which a test that waits has failed; nothing takes that long."""
shares = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="rings in shared memory need Linux on x86-64"
)


def waveform(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns so often that races show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def write_all(sink: StreamSink, samples: np.ndarray, error: Exception | None = None) -> None:
    sink.write(samples)
    sink.finish(error)


def test_the_writing_end_is_a_sink() -> None:
    stream = AudioStream(16000)
    sink: Sink = stream.sink
    assert sink.room() == stream.capacity


@pytest.mark.parametrize(("rate", "frame"), [(16000, 320), (22050, 441), (24000, 480), (44100, 882), (25, 1)])
def test_a_frame_is_20_ms(rate: int, frame: int) -> None:
    stream = AudioStream(rate)
    assert stream.frame == frame_samples(rate) == frame
    assert stream.capacity >= rate
    assert stream.capacity & (stream.capacity - 1) == 0


@given(
    rate=st.sampled_from([8000, 16000, 22050]),
    frame=st.sampled_from([None, 1, 77, 275, 441]),
    pieces=st.lists(st.integers(0, 1500), max_size=12),
    encoding=st.sampled_from(ENCODINGS),
    dither=st.booleans(),
    views=st.booleans(),
)
def test_frames_are_exact_however_the_waveform_comes(
    rate: int, frame: int | None, pieces: list[int], encoding: Encoding, dither: bool, views: bool
) -> None:
    dither &= encoding == "int16"
    samples = waveform(sum(pieces))
    expected = samples
    if encoding == "int16":
        expected = np.empty(len(samples), np.int16)
        Int16Encoder(dither=dither, seed=4).encode(samples, expected)
    stream = AudioStream(rate, frame, encoding, dither, seconds=4, seed=4)
    start = 0
    for piece in pieces:
        assert (stream.sink.room() or 0) >= piece
        stream.sink.write(samples[start : start + piece])
        start += piece
    stream.sink.finish(None)
    assert stream.buffered == len(samples) / rate
    frames = [one.copy() for one in stream.frames_view()] if views else list(stream)
    assert all(len(one) == stream.frame for one in frames[:-1])
    assert all(0 < len(one) <= stream.frame for one in frames[-1:])
    assert np.array_equal(np.concatenate([np.zeros(0, encoding), *frames]), expected)
    assert all(one.dtype == encoding for one in frames)
    assert stream.ended
    assert (stream.overruns, stream.underruns, stream.buffered) == (0, 0, 0)
    assert len(stream.read()) == 0
    assert next(stream, None) is None


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize(("chunk", "told"), [(100, True), (100, False), (330, True)])
def test_a_writer_that_pauses_goes_on_and_nothing_is_lost(
    stream_writer: ModuleType, short_turns: None, chunk: int, told: bool, views: bool
) -> None:
    samples = waveform(200_000)
    # Two chunks are all that fits: the ring is nearly always full or empty.
    stream = AudioStream(16000, 150, seconds=1e-3, chunk=chunk if told else None)
    assert stream.capacity in (512, 1024)
    with stream_writer.Writer(stream, samples, chunk) as writer:
        frames = [one.copy() for one in stream.frames_view()] if views else list(stream)
    assert np.array_equal(np.concatenate(frames), samples)
    assert {len(one) for one in frames[:-1]} == {150}
    assert stream.overruns == 0
    assert writer.pauses > 0
    assert not writer.cancelled.is_set()


@pytest.mark.parametrize("size", [1, 64])
def test_no_wake_up_is_lost(short_turns: None, size: int) -> None:
    """Both sides wait for each other after every frame, so that one lost wake-up would stop both."""
    rounds, stream, asked = 10_000, AudioStream(16000, size, chunk=size), threading.Semaphore(0)
    unanswered: list[int] = []

    def answer() -> None:
        for i in range(rounds):
            if not asked.acquire(timeout=PATIENCE):
                unanswered.append(i)
                return
            stream.sink.write(np.full(size, i, np.float32))
        stream.sink.finish(None)

    thread = threading.Thread(target=answer)
    thread.start()
    for i in range(rounds):
        asked.release()
        assert stream.read(timeout=PATIENCE)[-1] == i
    assert len(stream.read(timeout=PATIENCE)) == 0, "the end wakes as well"
    thread.join(PATIENCE)
    assert not unanswered


def test_a_reader_waits_no_longer_than_it_wants_to() -> None:
    stream = AudioStream(16000)
    stream.sink.write(waveform(100))
    with pytest.raises(TimeoutError, match=r"found 100 samples after 0\.001 s, expected 320"):
        stream.read(timeout=0.001)
    assert len(stream.read(100)) == 100, "none was lost"


def test_room_is_announced_only_to_a_writer_that_lacked_it() -> None:
    stream, calls = AudioStream(16000, 256, seconds=1e-3, chunk=400), []
    stream.connect(on_room=lambda: calls.append(stream.sink.room()))
    assert stream.capacity == 1024
    assert stream.sink.room() == 1024
    stream.sink.write(waveform(900))
    stream.read()
    assert calls == [], "nobody had asked for room while there was too little"
    assert stream.sink.room() == 380
    stream.read(10)
    assert calls == [], "a chunk does not fit yet"
    stream.read(10)
    assert calls == [400]
    stream.read(10)
    assert calls == [400]


def test_a_writer_that_is_short_again_at_once_is_told_again() -> None:
    stream, calls = AudioStream(16000, 256, seconds=1e-3, chunk=400), []

    def go_on() -> None:
        stream.sink.write(waveform(400))
        calls.append(stream.sink.room())

    stream.connect(on_room=go_on)
    stream.sink.write(waveform(1000))
    assert stream.sink.room() == 24
    for _ in range(8):
        stream.read(200)
    assert calls == [24] * 4


def test_a_writer_that_connects_late_misses_nothing() -> None:
    stream, calls = AudioStream(16000, 256, seconds=1e-3, chunk=400), []
    stream.sink.write(waveform(900))
    assert stream.sink.room() == 124
    stream.read(512)
    stream.close()
    stream.connect(lambda: calls.append("close"), lambda: calls.append("room"))
    assert calls == ["close", "room"]


def test_a_stream_is_urgent_until_half_of_it_is_filled() -> None:
    stream = AudioStream(16000, seconds=1e-3, chunk=400)
    assert stream.sink.urgent()
    stream.sink.write(waveform(511))
    assert stream.sink.urgent()
    stream.sink.write(waveform(1))
    assert not stream.sink.urgent()
    stream.read(1)
    assert stream.sink.urgent()
    stream.close()
    assert not stream.sink.urgent()


def test_the_error_comes_behind_the_samples_before_it() -> None:
    stream, error = AudioStream(16000), DeadlineError("too late")
    write_all(stream.sink, waveform(400), error)
    assert stream.error is error
    assert [len(next(stream)), len(next(stream))] == [320, 80]
    assert stream.ended
    for read in (stream.read, stream.__next__, lambda: next(stream.frames_view())):
        with pytest.raises(DeadlineError, match="too late"):
            read()
    assert stream.read_or_silence(5).tolist() == [0] * 5, "callbacks do not raise"
    with pytest.raises(VocoderError, match="closed ring"):
        stream.sink.write(waveform(1))
    stream.sink.finish(None)
    assert stream.error is error, "the first end counts"


def test_an_error_wakes_a_waiting_reader(short_turns: None) -> None:
    for _ in range(100):
        stream, reading = AudioStream(16000, seconds=1e-3), threading.Event()
        fail = partial(stream.sink.finish, ExecutorError("gone"))
        thread = threading.Thread(target=lambda wait, fail: wait(PATIENCE) and fail(), args=(reading.wait, fail))
        thread.start()
        reading.set()
        with pytest.raises(ExecutorError, match="gone"):
            stream.read(timeout=PATIENCE)
        thread.join(PATIENCE)


def test_closing_cancels_the_decoding_once() -> None:
    calls: list[str] = []
    with AudioStream(16000) as stream:
        stream.connect(lambda: calls.append("closed"))
        stream.sink.write(waveform(1000))
        assert len(next(stream)) == 320
    stream.close()
    assert calls == ["closed"]
    assert stream.ended
    assert list(stream) == []
    assert stream.fill(np.ones(4, np.float32)) == 0
    assert stream.underruns == 0
    assert stream.sink.room() is None
    stream.sink.write(waveform(100_000))
    assert stream.overruns == 0, "what nobody listens to is not lost"
    stream.sink.finish(CancelledError())
    assert len(stream.read()) == 0


def test_a_stream_that_was_heard_to_its_end_cancels_nothing() -> None:
    calls: list[str] = []
    with AudioStream(16000) as stream:
        stream.connect(lambda: calls.append("closed"))
        write_all(stream.sink, waveform(10))
        assert len(list(stream)) == 1
    assert calls == []


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


def test_dropping_a_stream_cancels_the_decoding(stream_writer: ModuleType) -> None:
    with stream_writer.Writer(AudioStream(16000, seconds=1e-3), waveform(320), 320, endless=True) as writer:
        gc.collect()
        assert writer.cancelled.wait(PATIENCE)
    stream = AudioStream(16000, seconds=1e-3)
    with stream_writer.Writer(stream, waveform(320), 320, endless=True) as writer:
        for _ in stream:
            break  # as a listener who has heard enough
        del stream
        gc.collect()
        assert writer.cancelled.wait(PATIENCE)


def test_a_dropped_stream_calls_from_a_thread_of_its_own() -> None:
    """Its end may come in any thread, at any time: also in one that holds the lock which cancelling takes."""
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


def test_views_are_the_ring_itself_and_hold_until_the_next() -> None:
    memory = np.zeros(HEADER_BYTES + 1024 * 4 + 100, np.uint8)[: HEADER_BYTES + 1024 * 4 + 100]
    stream = AudioStream(16000, 300, memory=memory)
    assert stream.capacity == 1024, "as much as makes a power of two"
    samples = waveform(1024 + 500)
    stream.sink.write(samples[:1024])
    views = stream.frames_view()
    first = next(views)
    assert np.shares_memory(first, memory)
    assert not first.flags.writeable
    assert stream.sink.room() == 0
    stream.sink.write(waveform(1, seed=1))
    assert stream.overruns == 1, "what is looked at is not overwritten"
    assert np.array_equal(first, samples[:300])
    next(views)
    assert stream.sink.room() == 300
    write_all(stream.sink, samples[1024 : 1024 + 300])
    third, seam, last = (view.copy() for view in views)
    assert np.array_equal(np.concatenate([third, seam, last]), samples[600 : 1024 + 300])
    assert stream.ended


def test_a_view_that_was_left_counts_as_read() -> None:
    stream = AudioStream(16000)
    write_all(stream.sink, waveform(700))
    for view in stream.frames_view():
        assert np.array_equal(view, waveform(700)[:320])
        break
    assert np.array_equal(stream.read(), waveform(700)[320:640])


def test_a_callback_gets_silence_where_there_is_nothing_else() -> None:
    stream = AudioStream(16000, encoding="int16")
    assert stream.read_or_silence(5).tolist() == [0] * 5
    assert stream.underruns == 5
    write_all(stream.sink, np.array([0.5, -0.5, 0.25], np.float32))
    two_channels = np.full((5, 2), 9, np.int16)
    assert stream.fill(two_channels[:, 1]) == 3
    assert two_channels.T.tolist() == [[9] * 5, [16384, -16384, 8192, 0, 0]]
    assert stream.underruns == 5, "behind the end there is no underrun"
    assert stream.ended
    with pytest.raises(VocoderError, match=r"found float32 \(3,\), expected int16"):
        stream.fill(np.zeros(3, np.float32))


def test_what_was_written_without_asking_is_counted_where_it_did_not_fit() -> None:
    for encoding in ENCODINGS:
        stream = AudioStream(16000, 100, encoding, seconds=1e-3)
        samples = waveform(300)
        stream.sink.write(samples)
        stream.sink.write(samples[:5])
        assert stream.overruns == 300 + 5 - stream.capacity
        kept = samples[: stream.capacity]
        assert np.array_equal(stream.read(100), (to_int16(kept) if encoding == "int16" else kept)[:100])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_rate": 0}, "sample rate: found 0, expected a positive number of Hz"),
        ({"sample_rate": 16000.0}, "sample rate: found 16000.0"),
        ({"frame": 0}, "frame: found 0, expected a positive number of samples"),
        ({"frame": 2.5}, "frame: found 2.5"),
        ({"frame": True}, "frame: found True"),
        ({"chunk": 0}, "chunk: found 0"),
        ({"encoding": "int24"}, "encoding: found 'int24', expected one of: float32, int16"),
        ({"dither": True}, "dither: found it with encoding 'float32', expected int16"),
        ({"seconds": 0}, "seconds: found 0, expected more than 0 and at most 134218"),
        ({"seconds": float("nan")}, "seconds: found nan"),
        ({"seconds": 10**9}, "seconds: found 1000000000"),
        ({"seconds": "1"}, "seconds: found '1'"),
        ({"encoding": "int16", "dither": True, "seed": -1}, "seed: found -1"),
        ({"memory": bytearray(1000)}, "memory: found 1000 bytes, expected at least 1028"),
        ({"memory": bytearray(3000)}, "memory: found room for 256 samples, expected at least 640, two frames or"),
        (
            {"memory": RingBuffer(1024, "int16", 16000)},
            r"found a ring buffer of \('int16', 16000\), expected \('float3",
        ),
        ({"memory": RingBuffer(512, "float32", 16000)}, "found room for 512 samples, expected at least 640"),
        ({"memory": RingBuffer(1024, "float32", 16000), "chunk": 513}, "expected at least 1026"),
    ],
)
def test_unusable_streams_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        AudioStream(**{"sample_rate": 16000, **arguments})


def test_reads_that_could_never_be_satisfied_are_refused() -> None:
    stream = AudioStream(16000, 256, seconds=1e-3)
    for read in (stream.read, stream.frames_view):
        with pytest.raises(
            VocoderError, match="found 257 samples, expected at most 256, half of what the stream holds"
        ):
            read(257)
        with pytest.raises(VocoderError, match="found 0, expected a positive number"):
            read(0)
    with pytest.raises(VocoderError, match="count: found -1"):
        stream.read_or_silence(-1)
