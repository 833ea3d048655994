"""What a listener hears who takes a frame whenever the clock says so: when samples were there, and when they were due.

A thread that plays the listener wakes up late now and then, and finds samples that came late, too. So underruns are
not only counted as that thread meets them, but also for a listener who is never late, from the times at which the
samples came.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass, field

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.scheduling.sinks import Sink


class TimedSink:
    """Hands samples on to a sink, and notes when they came."""

    def __init__(self, inner: Sink) -> None:
        """Begins with none."""
        self._inner = inner
        self.times: list[float] = []
        """Seconds on the clock of `time.monotonic`, of each piece."""
        self.totals: list[int] = []
        """Samples with that piece and before it."""
        self.complete = False
        """Whether the waveform came to its end."""

    def room(self) -> int | None:
        """See `Sink`."""
        return self._inner.room()

    def urgent(self) -> bool:
        """See `Sink`."""
        return self._inner.urgent()

    def write(self, samples: FloatArray) -> None:
        """See `Sink`."""
        self._inner.write(samples)
        self.totals.append((self.totals[-1] if self.totals else 0) + len(samples))
        self.times.append(time.monotonic())

    def finish(self, error: BaseException | None) -> None:
        """See `Sink`."""
        self.complete = error is None
        self._inner.finish(error)


@dataclass(frozen=True)
class Playback:
    """What a listener heard."""

    frames: int = 0
    """That were due."""
    underruns: int = 0
    """Of those, how many were not whole in time."""
    silence: int = 0
    """Samples of silence in their place."""

    def __add__(self, other: Playback) -> Playback:
        """Both together."""
        return Playback(self.frames + other.frames, self.underruns + other.underruns, self.silence + other.silence)


@dataclass
class Arrivals:
    """When the samples of one waveform came."""

    times: list[float]
    totals: list[int]
    complete: bool
    """Whether the last of them is the waveform's end."""
    due: list[float] = field(default_factory=list)
    """When frames were due, by the clock."""


def play(arrivals: Arrivals, frame: int) -> Playback:
    """What a listener hears who takes each frame at the very moment when it is due.

    What is missing is replaced by silence, and follows later; behind the waveform's end nothing is missing.

    Args:
        arrivals: what came when.
        frame: samples of a frame.
    """
    taken = underruns = silence = frames = 0
    end = arrivals.totals[-1] if arrivals.complete and arrivals.totals else None
    for due in arrivals.due:
        if taken == end:
            break
        frames += 1
        place = bisect_right(arrivals.times, due)
        there = arrivals.totals[place - 1] if place else 0
        count = min(frame, max(0, there - taken))
        taken += count
        if count < frame and taken != end:
            underruns += 1
            silence += frame - count
    return Playback(frames, underruns, silence)
