"""Audio streams that another process reads."""

from __future__ import annotations

import platform
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stream_writer

from wavernn_trt.runtime.errors import DeadlineError, ExecutorError, VocoderError
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.streaming.pcm import Int16Encoder
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer

PATIENCE = 60
"""Seconds after which a test that waits has failed."""
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="rings in shared memory need Linux on x86-64"
)


def waveform(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, count).astype(np.float32)


# Reads a stream to its end; prints the number of samples, their checksum, and how it ended.
READER = """
import sys, zlib
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
stream, count, checksum = AudioStream.attach(sys.argv[1]), 0, 0
print("attached", flush=True)
try:
    for frame in stream:
        count, checksum = count + len(frame), zlib.crc32(frame, checksum)
    ending = "complete"
except Exception as error:
    ending = f"{type(error).__name__}: {error}"
assert stream.ended
print(count, checksum, stream.encoding, stream.sample_rate, ending)
"""


@pytest.fixture
def shared() -> Iterator[AudioStream]:
    ring = RingBuffer.create(None, 2048, "int16", 22050)
    with AudioStream(22050, encoding="int16", dither=True, memory=ring, chunk=1000) as stream:
        yield stream


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    assert process.stdout is not None
    return process


def reader_of(stream: AudioStream, code: str = READER) -> subprocess.Popen[str]:
    name = stream.name
    assert name is not None
    process = python(code, name)
    assert process.stdout is not None
    assert process.stdout.readline() == "attached\n"
    return process


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, "complete"),
        (DeadlineError("too late"), "DeadlineError: too late"),
        (KeyError("lost"), "ExecutorError: KeyError: 'lost'"),
    ],
)
def test_another_process_reads_every_sample_and_the_end(
    shared: AudioStream, error: Exception | None, ending: str
) -> None:
    samples = waveform(100_000)
    expected = np.empty(len(samples), np.int16)
    Int16Encoder(dither=True).encode(samples, expected)
    reader = reader_of(shared)
    with stream_writer.Writer(shared, samples, 1000, error) as writer:
        output, errors = reader.communicate(timeout=PATIENCE)
    assert output == f"100000 {zlib.crc32(expected)} int16 22050 {ending}\n"
    assert errors == ""
    assert writer.pauses > 0
    assert not writer.cancelled.is_set()
    assert shared.overruns == 0


def test_the_end_of_a_reading_process_cancels_the_decoding(shared: AudioStream) -> None:
    code = READER.replace("for frame in stream:", "for frame in [next(stream)]:").replace("assert stream.ended", "")
    reader = reader_of(shared, code)
    with stream_writer.Writer(shared, waveform(1000), 1000, endless=True) as writer:
        output, errors = reader.communicate(timeout=PATIENCE)
        assert writer.cancelled.wait(PATIENCE)
    assert errors == ""
    assert output.split()[0] == "441"


def test_killing_a_reading_process_cancels_the_decoding(shared: AudioStream) -> None:
    reader = reader_of(shared, READER.replace("for frame in stream:", "for frame in [sys.stdin.read()]:"))
    with stream_writer.Writer(shared, waveform(1000), 1000, endless=True) as writer:
        reader.kill()
        assert writer.cancelled.wait(PATIENCE)
    reader.communicate()


def test_closing_a_stream_in_the_writing_process_cancels_it_in_the_reading_one(shared: AudioStream) -> None:
    reader = reader_of(shared)
    with stream_writer.Writer(shared, waveform(1000), 1000, endless=True):
        shared.close()
        output, _ = reader.communicate(timeout=PATIENCE)
    assert output.split(maxsplit=4)[4].startswith("CancelledError")


def test_a_stream_closed_before_all_samples_were_passed_on_is_not_complete(shared: AudioStream) -> None:
    reader = reader_of(shared)
    sink = shared.sink
    sink.write(waveform(500))
    shared.close()
    sink.write(waveform(500))
    sink.finish(None)
    output, _ = reader.communicate(timeout=PATIENCE)
    assert output.split(maxsplit=4)[::4] == ["500", "CancelledError: the stream was closed before its end\n"]


def test_killing_the_writing_process_ends_the_stream_with_an_error_after_its_samples() -> None:
    code = """
import sys
import numpy as np
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
ring = RingBuffer.create(None, 2048, "float32", 16000)
stream = AudioStream(16000, memory=ring)
stream.sink.write(np.ones(400, np.float32))
print(stream.name, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stream = AudioStream.attach(process.stdout.readline().strip())
        assert len(stream.read(timeout=PATIENCE)) == 320
        assert not stream.ended
        process.kill()
        assert len(stream.read(timeout=PATIENCE)) == 80
        with pytest.raises(ExecutorError, match="the process that writes the stream has ended without finishing it"):
            next(stream)
        assert stream.ended
        assert isinstance(stream.error, ExecutorError)


def test_the_reading_end_cannot_write(shared: AudioStream) -> None:
    assert shared.name is not None
    reading = AudioStream.attach(shared.name, frame=100)
    shared.sink.write(waveform(250))
    assert len(reading.read(timeout=PATIENCE)) == 100
    with pytest.raises(TimeoutError, match=r"found 150 samples after 0\.01 s, expected 200"):
        reading.read(200, timeout=0.01)
    for writing in (lambda: reading.sink, reading.connect):
        with pytest.raises(VocoderError, match="found a stream that another process writes"):
            writing()
    with pytest.raises(VocoderError, match="frame: found 2000 samples, expected at most 1024"):
        reading.read(2000)


def test_closing_removes_the_shared_memory(shared: AudioStream) -> None:
    assert shared.name is not None
    assert Path("/dev/shm", shared.name).exists()
    shared.close()
    assert not Path("/dev/shm", shared.name).exists()
