"""Audio streams: frames, ends, views, callbacks and bounds."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.runtime.errors import DeadlineError, VocoderError
from wavernn_trt.runtime.streaming.audio_stream import AudioStream, frame_samples
from wavernn_trt.runtime.streaming.pcm import Int16Encoder, to_int16
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
from wavernn_trt.runtime.streaming.ring_header import ENCODINGS, HEADER_BYTES, Encoding
from wavernn_trt.runtime.streaming.stream_link import StreamSink

PATIENCE = 60
"""Seconds after which a test that waits has failed."""


def waveform(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)


def write_all(sink: StreamSink, samples: np.ndarray, error: Exception | None = None) -> None:
    sink.write(samples)
    sink.finish(error)


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
def test_frames_do_not_depend_on_the_pieces_of_the_waveform(
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


def test_a_read_times_out_without_losing_samples() -> None:
    stream = AudioStream(16000)
    stream.sink.write(waveform(100))
    with pytest.raises(TimeoutError, match=r"found 100 samples after 0\.001 s, expected 320"):
        stream.read(timeout=0.001)
    assert len(stream.read(100)) == 100


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


def test_the_error_comes_after_the_samples_before_it() -> None:
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
    assert stream.overruns == 0, "a closed stream counts no overruns"
    stream.sink.finish(CancelledError())
    assert len(stream.read()) == 0


def test_a_stream_that_was_read_to_its_end_cancels_nothing() -> None:
    calls: list[str] = []
    with AudioStream(16000) as stream:
        stream.connect(lambda: calls.append("closed"))
        write_all(stream.sink, waveform(10))
        assert len(list(stream)) == 1
    assert calls == []


def test_views_share_the_ring_s_memory_until_the_next_view() -> None:
    memory = np.zeros(HEADER_BYTES + 1024 * 4 + 100, np.uint8)[: HEADER_BYTES + 1024 * 4 + 100]
    stream = AudioStream(16000, 300, memory=memory)
    assert stream.capacity == 1024, "the largest power of two that fits"
    samples = waveform(1024 + 500)
    stream.sink.write(samples[:1024])
    views = stream.frames_view()
    first = next(views)
    assert np.shares_memory(first, memory)
    assert not first.flags.writeable
    assert stream.sink.room() == 0
    stream.sink.write(waveform(1, seed=1))
    assert stream.overruns == 1, "a view in use is not overwritten"
    assert np.array_equal(first, samples[:300])
    next(views)
    assert stream.sink.room() == 300
    write_all(stream.sink, samples[1024 : 1024 + 300])
    third, seam, last = (view.copy() for view in views)
    assert np.array_equal(np.concatenate([third, seam, last]), samples[600 : 1024 + 300])
    assert stream.ended


def test_a_view_counts_as_read_when_its_loop_ends() -> None:
    stream = AudioStream(16000)
    write_all(stream.sink, waveform(700))
    for view in stream.frames_view():
        assert np.array_equal(view, waveform(700)[:320])
        break
    assert np.array_equal(stream.read(), waveform(700)[320:640])


def test_a_callback_gets_silence_where_samples_are_missing() -> None:
    stream = AudioStream(16000, encoding="int16")
    assert stream.read_or_silence(5).tolist() == [0] * 5
    assert stream.underruns == 5
    write_all(stream.sink, np.array([0.5, -0.5, 0.25], np.float32))
    two_channels = np.full((5, 2), 9, np.int16)
    assert stream.fill(two_channels[:, 1]) == 3
    assert two_channels.T.tolist() == [[9] * 5, [16384, -16384, 8192, 0, 0]]
    assert stream.underruns == 5, "after the end there are no underruns"
    assert stream.ended
    with pytest.raises(VocoderError, match=r"found float32 \(3,\), expected int16"):
        stream.fill(np.zeros(3, np.float32))


def test_samples_that_do_not_fit_are_counted() -> None:
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
        ({"frame": 0}, "frame: found 0, expected a positive number of samples"),
        ({"chunk": 0}, "chunk: found 0"),
        ({"encoding": "int24"}, "encoding: found 'int24', expected one of: float32, int16"),
        ({"dither": True}, "dither: found it with encoding 'float32', expected int16"),
        ({"seconds": 0}, "seconds: found 0, expected more than 0 and at most 134218"),
        ({"seconds": float("nan")}, "seconds: found nan"),
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


def test_reads_larger_than_the_stream_are_refused() -> None:
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
