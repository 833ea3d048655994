"""What a scheduler counts, and what of it people look at."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

_KEPT = 1024
"""Utterances whose times the percentiles are of."""
_RECENT_SECONDS = 10.0
"""Of which the present speed is the mean."""


@dataclass(frozen=True)
class Percentiles:
    """Of the most recent 1024 durations, in seconds; zeros where there was none."""

    count: int
    """How many there were since the beginning."""
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    maximum: float = 0.0
    total: float = 0.0
    """Seconds of all of them together, since the beginning."""


@dataclass(frozen=True)
class SchedulerStatistics:
    """One moment of a scheduler. What is counted is counted since it was made."""

    lanes: int
    """Lanes that are open."""
    slots: int
    """Slots for batch work of all lanes; interactive utterances may have some besides."""
    busy: int
    """Slots with an utterance in them, or a fold of one."""
    queue: int
    """Utterances that wait for a slot."""
    under_way: int
    """Utterances with a slot."""
    conditioning_bytes: int
    """Conditioning of utterances that wait for a slot or have one."""
    chunks: int
    """Chunks decoded."""
    decoding_seconds: float
    """Time that lanes spent in the executor; beside the time that passed, it says what the rest costs."""
    occupancy: float
    """Share of a lane's slots for batch work that were in a chunk, over the chunks that began while others waited."""
    samples: int
    """Samples decoded, a fold's warm-up included."""
    samples_per_second: float
    """Over the last ten seconds."""
    done: int
    """Utterances that were spoken."""
    failed: int
    """Utterances that ended with an error."""
    cancelled: int
    """Utterances that their callers gave up."""
    dropped: int
    """Utterances that could not have been ready by their deadline."""
    restarted: int
    """Utterances that were begun again because their lane was lost."""
    lost_lanes: int
    """Lanes that raised an error or did not answer."""
    first_samples: Percentiles
    """From submission until there is something to hear."""
    latency: Percentiles
    """From submission until the waveform is whole."""


@dataclass
class Durations:
    """Times of which percentiles are wanted, in bounded memory."""

    count: int = 0
    total: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.total += seconds
        self.recent.append(seconds)

    def percentiles(self) -> Percentiles:
        """Of the recent ones."""
        if not self.recent:
            return Percentiles(self.count)
        p50, p90, p99, maximum = np.percentile(list(self.recent), [50, 90, 99, 100]).tolist()
        return Percentiles(self.count, p50, p90, p99, maximum, self.total)


@dataclass
class Counters:
    """What `SchedulerStatistics` is made of; whoever changes it holds the scheduler's lock."""

    chunks: int = 0
    decoding_seconds: float = 0.0
    loaded_rows: int = 0
    loaded_slots: int = 0
    samples: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    dropped: int = 0
    restarted: int = 0
    lost_lanes: int = 0
    first_samples: Durations = field(default_factory=Durations)
    latency: Durations = field(default_factory=Durations)
    chunk_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def decoded(self, seconds: float, samples: int) -> None:
        """A chunk was."""
        now = time.monotonic()
        self.chunks += 1
        self.decoding_seconds += seconds
        self.chunk_seconds.append(seconds)
        self.samples += samples
        self._recent.append((now - seconds, samples))
        self._forget(now)

    @property
    def occupancy(self) -> float:
        """See `SchedulerStatistics`."""
        return self.loaded_rows / self.loaded_slots if self.loaded_slots else 0.0

    @property
    def fastest_chunk(self) -> float:
        """Seconds of the fastest of the recent chunks; 0 before the first."""
        return min(self.chunk_seconds, default=0.0)

    def samples_per_second(self) -> float:
        """See `SchedulerStatistics`."""
        now = time.monotonic()
        self._forget(now)
        if not self._recent:
            return 0.0
        return sum(samples for _, samples in self._recent) / max(now - self._recent[0][0], 1e-3)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _RECENT_SECONDS:
            self._recent.popleft()
