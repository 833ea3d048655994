"""An executor that is watched: how many chunks it computes, of how many streams, and how long that takes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.executors.protocol import Chunk, Executor, FloatArray, Lane

_KEPT = 4096
"""Chunks whose times are kept."""


@dataclass(frozen=True)
class Meter:
    """What was counted until a moment."""

    chunks: int = 0
    """Chunks that were submitted."""
    rows: int = 0
    """Streams in them, each chunk's counted: what there was to compute."""
    seconds: float = 0.0
    """That lanes were inside the executor, those of all lanes together."""

    def __sub__(self, other: Meter) -> Meter:
        """What came between two moments."""
        return Meter(self.chunks - other.chunks, self.rows - other.rows, self.seconds - other.seconds)


class MeteredExecutor:
    """Does what ``inner`` does, and counts."""

    def __init__(self, inner: Executor) -> None:
        """Begins at zero."""
        self.inner = inner
        self.recent: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        """Streams and seconds of the last chunks, in the order in which they ended."""
        self._lock = threading.Lock()
        self._meter = Meter()

    @property
    def name(self) -> str:
        """See `Executor`."""
        return self.inner.name

    @property
    def slots(self) -> int | None:
        """See `Executor`."""
        return self.inner.slots

    @property
    def steps(self) -> int | None:
        """See `Executor`."""
        return self.inner.steps

    @property
    def lanes(self) -> int:
        """See `Executor`."""
        return self.inner.lanes

    def condition(self, mel: FloatArray) -> FloatArray:
        """See `Executor`."""
        return self.inner.condition(mel)

    @contextmanager
    def lane(self, streams: int) -> Iterator[Lane]:
        """See `Executor`."""
        with self.inner.lane(streams) as lane:
            yield _MeteredLane(self, lane)

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Executor`."""
        return self.inner.teacher_forced(chunk, previous, hidden)

    def read(self) -> Meter:
        """What was counted until now."""
        with self._lock:
            return self._meter

    def count(self, rows: int, seconds: float) -> None:
        """A chunk was computed."""
        with self._lock:
            one = self._meter
            self._meter = Meter(one.chunks + 1, one.rows + rows, one.seconds + seconds)
            self.recent.append((rows, seconds))

    def chunk_seconds(self) -> float | None:
        """The median of the recent chunks that had the most streams; ``None`` where there was none."""
        with self._lock:
            recent = list(self.recent)
        most = max((rows for rows, _ in recent), default=0)
        return float(np.median([seconds for rows, seconds in recent if rows == most])) if recent else None


class _MeteredLane:
    """One thread at a time calls it, so that its own queue needs no lock."""

    def __init__(self, executor: MeteredExecutor, inner: Lane) -> None:
        self._executor, self._inner = executor, inner
        self._submitted: deque[tuple[int, float]] = deque()

    @property
    def slots(self) -> int:
        return self._inner.slots

    @property
    def ahead(self) -> int:
        return self._inner.ahead

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        started = time.perf_counter()
        self._inner.submit(chunk, slots, entering)
        self._submitted.append((len(slots), time.perf_counter() - started))

    def collect(self) -> NDArray[Any]:
        started = time.perf_counter()
        samples = self._inner.collect()
        rows, seconds = self._submitted.popleft()
        self._executor.count(rows, seconds + time.perf_counter() - started)
        return samples
