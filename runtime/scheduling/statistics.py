"""Counters of a scheduler, and the statistics computed from them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, field

import numpy as np

from wavernn_trt.runtime.errors import DeadlineError

_KEPT = 1024
"""Number of recent durations from which percentiles are computed."""
BUCKET_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Inclusive upper bounds of the histogram's buckets; the last bucket has none. The same in every process."""
_RECENT_SECONDS = 10.0
"""Period over which the current speed is averaged."""


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of the most recent 1024 durations, in seconds; zeros if there are none."""

    count: int
    """Number of durations since the start."""
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    maximum: float = 0.0
    total: float = 0.0
    """Sum of all durations since the start."""
    buckets: tuple[int, ...] = (0,) * (len(BUCKET_SECONDS) + 1)
    """Durations since the start in each bucket of `BUCKET_SECONDS`; counts of several processes can be added."""


@dataclass(frozen=True)
class SchedulerStatistics:
    """Snapshot of a scheduler. Counts start when the scheduler is made."""

    lanes: int
    """Open lanes."""
    slots: int
    """Slots for batch work in all lanes; there may be more for interactive utterances."""
    busy: int
    """Slots in use by an utterance or a fold."""
    queue: int
    """Utterances that wait for a slot."""
    under_way: int
    """Utterances with a slot."""
    conditioning_bytes: int
    """Memory for conditioning of utterances that wait for a slot or have one."""
    chunks: int
    """Chunks decoded."""
    decoding_seconds: float
    """Time that lanes spent in the executor; the rest of the elapsed time is overhead."""
    occupancy: float
    """Share of a lane's batch slots used per chunk, over the chunks submitted while utterances waited."""
    samples: int
    """Samples decoded, including the warm-up of folds."""
    samples_per_second: float
    """Average over the last ten seconds."""
    done: int
    """Utterances vocoded."""
    failed: int
    """Utterances that ended with an error."""
    cancelled: int
    """Utterances cancelled by their callers."""
    dropped: int
    """Utterances that could not meet their deadline."""
    restarted: int
    """Utterances restarted because their lane was lost."""
    lost_lanes: int
    """Lanes that failed or timed out."""
    first_samples: Percentiles
    """From submission to the first samples."""
    latency: Percentiles
    """From submission to the complete waveform."""


@dataclass
class Durations:
    """Durations and their percentiles, in bounded memory."""

    count: int = 0
    total: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKET_SECONDS) + 1))

    def add(self, seconds: float) -> None:
        """Records a duration."""
        self.count += 1
        self.total += seconds
        self.recent.append(seconds)
        self.buckets[bisect_left(BUCKET_SECONDS, seconds)] += 1

    def percentiles(self) -> Percentiles:
        """Returns the percentiles of the recent durations."""
        if not self.recent:
            return Percentiles(self.count)
        p50, p90, p99, maximum = np.percentile(list(self.recent), [50, 90, 99, 100]).tolist()
        return Percentiles(self.count, p50, p90, p99, maximum, self.total, tuple(self.buckets))


@dataclass
class Totals:
    """Counts since the start; the names are those of `SchedulerStatistics`."""

    chunks: int = 0
    decoding_seconds: float = 0.0
    samples: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    dropped: int = 0
    restarted: int = 0
    lost_lanes: int = 0


class Counters:
    """Counters of a scheduler; used with its lock."""

    def __init__(self) -> None:
        """Starts all counters at zero."""
        self.totals = Totals()
        self.first_samples = Durations()
        self.latency = Durations()
        self.lane_failures = 0
        """Consecutive lost lanes without a decoded chunk in between."""
        self._batch_rows = 0
        self._batch_slots = 0
        self._chunk_seconds: deque[float] = deque(maxlen=64)
        self._recent: deque[tuple[float, int]] = deque()

    def submitted(self, batch_rows: int, batch_slots: int) -> None:
        """Records a chunk of all streams submitted while utterances wait: its batch streams, and the batch slots."""
        self._batch_rows += batch_rows
        self._batch_slots += batch_slots

    def decoded(self, seconds: float, samples: int) -> None:
        """Records a decoded chunk."""
        now = time.monotonic()
        self.lane_failures = 0
        self.totals.chunks += 1
        self.totals.decoding_seconds += seconds
        self.totals.samples += samples
        self._chunk_seconds.append(seconds)
        self._recent.append((now - seconds, samples))
        self._forget(now)

    def ended(self, error: BaseException | None, latency: float) -> None:
        """Records the end of an utterance, by the kind of its error."""
        if error is None:
            self.totals.done += 1
            self.latency.add(latency)
        elif isinstance(error, CancelledError):
            self.totals.cancelled += 1
        elif isinstance(error, DeadlineError):
            self.totals.dropped += 1
        else:
            self.totals.failed += 1

    @property
    def fastest_chunk(self) -> float:
        """Seconds of the fastest recent chunk; 0 before the first."""
        return min(self._chunk_seconds, default=0.0)

    def statistics(self, **now: int) -> SchedulerStatistics:
        """Returns the statistics; ``now`` has the fields of `SchedulerStatistics` before the first count."""
        return SchedulerStatistics(
            **now,
            **asdict(self.totals),
            occupancy=self._batch_rows / self._batch_slots if self._batch_slots else 0.0,
            samples_per_second=self._samples_per_second(),
            first_samples=self.first_samples.percentiles(),
            latency=self.latency.percentiles(),
        )

    def _samples_per_second(self) -> float:
        now = time.monotonic()
        self._forget(now)
        if not self._recent:
            return 0.0
        return sum(samples for _, samples in self._recent) / max(now - self._recent[0][0], 1e-3)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _RECENT_SECONDS:
            self._recent.popleft()
