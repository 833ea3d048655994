"""Listeners in real time: each a thread that reads 20 ms of its stream whenever 20 ms have passed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.percentiles import percentiles
from wavernn_trt.scripts.bench.playback import Arrivals, Playback, TimedSink, play
from wavernn_trt.scripts.bench.speech import Mixture

LATE_SECONDS = 0.005
"""A reader that wakes up so late is counted: a quarter of a frame."""
_PATIENCE = 60.0
"""Seconds after which a first frame is not waited for any longer."""


@dataclass
class Heard:
    """What one listener met, or several together."""

    first_frames: list[float] = field(default_factory=list)
    """Seconds from the mel in hand to a frame in hand."""
    playback: Playback = field(default_factory=Playback)
    """By the clock; see `play`."""
    read: Playback = field(default_factory=Playback)
    """As the thread read it, late wake-ups included."""
    lateness: list[float] = field(default_factory=list)
    """Seconds by which the thread woke up behind the clock, for each frame."""
    samples: int = 0
    """That were decoded for it."""
    failures: list[str] = field(default_factory=list)
    """Streams that broke off."""

    def add(self, other: Heard) -> None:
        """Takes another's in."""
        self.first_frames += other.first_frames
        self.playback += other.playback
        self.read += other.read
        self.lateness += other.lateness
        self.samples += other.samples
        self.failures += other.failures

    def describe(self, sample_rate: int) -> dict[str, Any]:
        """For the report."""
        return {
            "first_frame": percentiles(self.first_frames),
            "frames": self.playback.frames,
            "underruns": self.playback.underruns,
            "silence_seconds": self.playback.silence / sample_rate,
            "as_read": {"underruns": self.read.underruns, "silence_seconds": self.read.silence / sample_rate},
            "reader_late": {
                **percentiles(self.lateness),
                "over_5_ms": sum(late > LATE_SECONDS for late in self.lateness),
            },
            "samples": self.samples,
            "failures": self.failures,
        }


class Listener:
    """Listens to one utterance after the other."""

    def __init__(self, vocoder: Vocoder, mixture: Mixture, first: int, step: int, buffer: float) -> None:
        """Prepares; `listen` is what a thread of its own does.

        Args:
            vocoder: speaks.
            mixture: utterances to choose from, over and over.
            first: the number of this listener's first.
            step: to its next.
            buffer: seconds that it waits behind a first frame before it begins to play.
        """
        self.heard = Heard()
        self._vocoder = vocoder
        self._mixture = mixture
        self._next = first
        self._step = step
        self._buffer = buffer

    def listen(self, start: float, until: float) -> None:
        """Listens from one moment to another, on the clock of `time.monotonic`."""
        _sleep_until(start)
        try:
            while self._hear(self._mixture[self._next % len(self._mixture)], until):
                self._next += self._step
        except (VocoderError, ExecutorError, TimeoutError) as error:
            self.heard.failures.append(str(error))

    def _hear(self, request: Request, until: float) -> bool:
        """Hears an utterance; returns whether it ended before the time was over."""
        started = time.monotonic()
        with open_stream(self._vocoder, request) as (stream, sink):
            first = stream.read(timeout=_PATIENCE)
            now = time.monotonic()
            self.heard.first_frames.append(now - started)
            frames = underruns = 0
            arrivals = Arrivals(sink.times, sink.totals, complete=False)
            period = stream.frame / stream.sample_rate
            due = now + self._buffer + (period if len(first) else 0.0)
            while due < until and not stream.ended:
                _sleep_until(due)
                self.heard.lateness.append(max(0.0, time.monotonic() - due))
                arrivals.due.append(due)
                missing = stream.underruns
                stream.read_or_silence(stream.frame)
                frames += 1
                underruns += stream.underruns > missing
                due += period
            # Copies: the sink may be written until the stream is closed.
            count = len(sink.times)
            arrivals.times, arrivals.totals = sink.times[:count], [t - len(first) for t in sink.totals[:count]]
            arrivals.complete = sink.complete
            if stream.error is not None:
                self.heard.failures.append(str(stream.error))
            self.heard.playback += play(arrivals, stream.frame)
            self.heard.read += Playback(frames, underruns, stream.underruns)
            self.heard.samples += sink.totals[-1] if sink.totals else 0
            return due < until


@contextlib.contextmanager
def open_stream(vocoder: Vocoder, request: Request) -> Iterator[tuple[AudioStream, TimedSink]]:
    """A stream of an utterance, as `Vocoder.stream` opens it, and the sink that notes when its samples come."""
    with AudioStream(vocoder.sample_rate, chunk=vocoder.chunk, seed=request.seed) as stream:
        sink = TimedSink(stream.sink)
        vocoder.speak_into(stream, request.mel, seed=request.seed, sink=sink)
        yield stream, sink


def listen_together(
    vocoder: Vocoder, mixture: Mixture, listeners: int, seconds: float, *, buffer: float, spread: float
) -> Heard:
    """Listens with several listeners at a time.

    Args:
        vocoder: speaks.
        mixture: utterances to choose from.
        listeners: how many.
        seconds: how long.
        buffer: see `Listener`.
        spread: seconds over which they come, one after the other.
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
