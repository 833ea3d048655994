"""Listeners in real time: threads that read 20 ms of a stream every 20 ms, and the underruns that they meet.

Underruns are counted twice: as the thread reads, which sometimes wakes up late, and for a listener that is never late,
from the arrival times of the samples.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.executors.protocol import FloatArray
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.sinks import Sink
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.speech import Mixture
from wavernn_trt.scripts.bench.timing import percentiles

LATE_SECONDS = 0.005
"""A reader that wakes up later than this (a quarter of a frame) is counted as late."""
_PATIENCE = 60.0
"""Longest wait for a first frame, in seconds."""


class TimedSink:
    """Passes samples to another sink and records their arrival times."""

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self.room, self.urgent = inner.room, inner.urgent
        self.times: list[float] = []
        """Arrival time of each piece, in seconds of `time.monotonic`."""
        self.totals: list[int] = []
        """Samples up to the end of each piece."""
        self.complete = False
        """Whether the waveform ended without an error."""

    def write(self, samples: FloatArray) -> None:
        self._inner.write(samples)
        self.totals.append((self.totals[-1] if self.totals else 0) + len(samples))
        self.times.append(time.monotonic())

    def finish(self, error: BaseException | None) -> None:
        self.complete = error is None
        self._inner.finish(error)


@dataclass(frozen=True)
class Playback:
    """Counts of a listener's playback."""

    frames: int = 0
    """Frames that were due."""
    underruns: int = 0
    """Frames that were incomplete when they were due."""
    silence: int = 0
    """Samples of silence in place of missing ones."""

    def __add__(self, other: Playback) -> Playback:
        return Playback(self.frames + other.frames, self.underruns + other.underruns, self.silence + other.silence)


def play(
    times: Sequence[float], totals: Sequence[int], due: Sequence[float], frame: int, *, complete: bool
) -> Playback:
    """Simulates a listener that takes each frame exactly when it is due.

    Missing samples are replaced by silence and follow later. After the waveform's end nothing is missing.

    Args:
        times: arrival times of the pieces of a waveform.
        totals: samples up to the end of each piece.
        due: times at which frames are due.
        frame: samples of a frame.
        complete: whether the last piece is the waveform's end.
    """
    taken = underruns = silence = frames = 0
    end = totals[-1] if complete and totals else None
    for moment in due:
        if taken == end:
            break
        frames += 1
        place = bisect_right(times, moment)
        count = min(frame, max(0, (totals[place - 1] if place else 0) - taken))
        taken += count
        if count < frame and taken != end:
            underruns += 1
            silence += frame - count
    return Playback(frames, underruns, silence)


@dataclass
class Heard:
    """Measurements of one listener, or of several together."""

    first_frames: list[float] = field(default_factory=list)
    """Seconds from the mel to the first frame."""
    playback: Playback = field(default_factory=Playback)
    """Of a listener that is never late; see `play`."""
    read: Playback = field(default_factory=Playback)
    """As the thread read it, with its late wake-ups."""
    lateness: list[float] = field(default_factory=list)
    """Seconds by which the thread woke up late, for each frame."""
    samples: int = 0
    """Samples decoded for the listener."""
    failures: list[str] = field(default_factory=list)
    """Errors of streams."""

    def add(self, other: Heard) -> None:
        """Adds another listener's measurements."""
        self.first_frames += other.first_frames
        self.playback += other.playback
        self.read += other.read
        self.lateness += other.lateness
        self.samples += other.samples
        self.failures += other.failures

    def describe(self, sample_rate: int) -> dict[str, Any]:
        """The entries in the report."""
        late = sum(seconds > LATE_SECONDS for seconds in self.lateness)
        return {
            "first_frame": percentiles(self.first_frames),
            "frames": self.playback.frames,
            "underruns": self.playback.underruns,
            "silence_seconds": self.playback.silence / sample_rate,
            "as_read": {"underruns": self.read.underruns, "silence_seconds": self.read.silence / sample_rate},
            "reader_late": {**percentiles(self.lateness), "over_5_ms": late},
            "samples": self.samples,
            "failures": self.failures,
        }


class Listener:
    """Reads the streams of one utterance after the other."""

    def __init__(self, vocoder: Vocoder, mixture: Mixture, first: int, step: int, buffer: float) -> None:
        """Prepares `listen`, which runs in its own thread.

        Args:
            vocoder: of the streams.
            mixture: the utterances, which are repeated.
            first: number of this listener's first utterance.
            step: difference to the number of its next utterance.
            buffer: seconds between the first frame and the beginning of playback.
        """
        self.heard = Heard()
        self._vocoder, self._mixture = vocoder, mixture
        self._next, self._step, self._buffer = first, step, buffer

    def listen(self, start: float, until: float) -> None:
        """Reads streams in an interval, in seconds of `time.monotonic`."""
        _sleep_until(start)
        try:
            while self._hear(self._mixture[self._next % len(self._mixture)], until):
                self._next += self._step
        except (VocoderError, ExecutorError, TimeoutError) as error:
            self.heard.failures.append(str(error))

    def _hear(self, request: Request, until: float) -> bool:
        """Reads one utterance; returns whether it ended before ``until``."""
        started = time.monotonic()
        with open_stream(self._vocoder, request) as (stream, sink):
            first = stream.read(timeout=_PATIENCE)
            now = time.monotonic()
            self.heard.first_frames.append(now - started)
            underruns = 0
            dues: list[float] = []
            period = stream.frame / stream.sample_rate
            due = now + self._buffer + (period if len(first) else 0.0)
            while due < until and not stream.ended:
                _sleep_until(due)
                self.heard.lateness.append(max(0.0, time.monotonic() - due))
                dues.append(due)
                missing = stream.underruns
                stream.read_or_silence(stream.frame)
                underruns += stream.underruns > missing
                due += period
            # The sink may still be written until the stream is closed, so `complete` is read before the copies.
            complete = sink.complete
            times = list(sink.times)
            totals = [total - len(first) for total in sink.totals[: len(times)]]
            if stream.error is not None:
                self.heard.failures.append(str(stream.error))
            self.heard.playback += play(times, totals, dues, stream.frame, complete=complete)
            self.heard.read += Playback(len(dues), underruns, stream.underruns)
            self.heard.samples += sink.totals[-1] if sink.totals else 0
            return due < until


@contextlib.contextmanager
def open_stream(vocoder: Vocoder, request: Request) -> Iterator[tuple[AudioStream, TimedSink]]:
    """Opens a stream of an utterance as `Vocoder.stream` does, with a sink that records arrival times."""
    with AudioStream(vocoder.sample_rate, chunk=vocoder.chunk, seed=request.seed) as stream:
        sink = TimedSink(stream.sink)
        vocoder.speak_into(stream, request.mel, seed=request.seed, sink=sink)
        yield stream, sink


def listen_together(
    vocoder: Vocoder, mixture: Mixture, listeners: int, seconds: float, *, buffer: float, spread: float
) -> Heard:
    """Runs several listeners at the same time; returns the sum of their measurements.

    Args:
        vocoder: of the streams.
        mixture: the utterances.
        listeners: number of listeners.
        seconds: duration.
        buffer: see `Listener`.
        spread: seconds within which the listeners begin, one after the other.
    """
    start = time.monotonic()
    several = [Listener(vocoder, mixture, number, listeners, buffer) for number in range(listeners)]
    threads = [
        threading.Thread(
            target=one.listen,
            args=(start + spread * number / listeners, start + seconds),
            name=f"listener {number}",
            daemon=True,
        )
        for number, one in enumerate(several)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = Heard()
    for one in several:
        heard.add(one.heard)
    return heard


def _sleep_until(moment: float) -> None:
    if (seconds := moment - time.monotonic()) > 0:
        time.sleep(seconds)
