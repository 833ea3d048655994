"""Types of timing: repeats of a subject, the protocol of peers, and an executor that counts its chunks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins.cpu.decoder import StepWork
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, Lane
from wavernn_trt.scripts.bench.backends import Place

Report = Callable[[str], None]
"""Shows the next step; called with an empty line at the end."""
_KEPT = 4096
"""Number of chunks whose times are kept."""


@dataclass(frozen=True)
class Repeat:
    """One measurement; for the fields see `Timing`."""

    elapsed: float
    first_chunk: float | None = None
    chunk: float | None = None


@dataclass
class Timing:
    """The repeats of one subject at one batch."""

    subject: str
    """Name of a backend or peer in the table."""
    batch: int
    """Streams decoded together."""
    samples: int
    """Samples of a repeat, over all streams."""
    chunk_samples: int | None = None
    """Samples of a stream's chunk; ``None`` for peers."""
    place: Place = "cpu"
    precision: str = "fp32"
    """Of the weights: `WeightPrecision`, `NativePrecision`, ``quantised`` or ``fp64``."""
    engine: str | None = None
    """The plan or kernel of a backend on a GPU; ``None`` for others."""
    work: StepWork | None = None
    """Work of a step, on the CPU; ``None`` where it is not known, and on a GPU."""
    elapsed: list[float] = field(default_factory=list)
    """Seconds of each repeat, from mels to waveforms."""
    first_chunk: list[float] = field(default_factory=list)
    """Seconds of each repeat until every stream has its first 20 ms; none for peers."""
    chunk: list[float] = field(default_factory=list)
    """Median seconds of each repeat's fullest chunks; none for peers."""

    def add(self, repeat: Repeat) -> None:
        """Appends a repeat."""
        self.elapsed.append(repeat.elapsed)
        if repeat.first_chunk is not None:
            self.first_chunk.append(repeat.first_chunk)
        if repeat.chunk is not None:
            self.chunk.append(repeat.chunk)


Turn = tuple[Timing, Callable[[], Repeat]]
"""A subject at a batch, and the function that measures one repeat."""
COMPARED = "onnxruntime"
"""The backend with which others are compared, as with peers."""
SUBJECTS = {
    "loop": "pytorch loop",
    "cuda-graphs": "pytorch graphs",
    "openvino": "openvino",
    "univoc": "univoc",
    "torchaudio": "torchaudio",
}
"""Each peer's name on the command line and its name in the table."""


class PeerError(ValueError):
    """A peer whose results differ from the model's, so that its speed cannot be compared."""


class Peer(Protocol):
    """Another implementation with the same weights."""

    subject: str
    """Its name in the table."""
    only: int | None
    """The only batch that it supports; ``None`` if it supports any."""

    def turn(self, batch: int, seconds: float) -> Turn:
        """Warms up; each repeat generates at least ``seconds`` of speech for each stream."""


def place_of_device(device: str) -> Place:
    """The place of one of PyTorch's devices."""
    return "cpu" if device == "cpu" else "gpu"


def percentiles(seconds: Sequence[float]) -> dict[str, float | int]:
    """Count, percentiles and maximum; only the count without values."""
    if not seconds:
        return {"count": 0}
    p50, p90, p99, most = np.percentile(np.asarray(seconds, np.float64), [50, 90, 99, 100]).tolist()
    return {"count": len(seconds), "p50": p50, "p90": p90, "p99": p99, "max": most}


@dataclass(frozen=True)
class Meter:
    """Counters of an executor at one moment."""

    chunks: int = 0
    """Chunks computed."""
    rows: int = 0
    """Streams, summed over chunks."""
    seconds: float = 0.0
    """Time in the executor, summed over lanes."""

    def __sub__(self, other: Meter) -> Meter:
        return Meter(self.chunks - other.chunks, self.rows - other.rows, self.seconds - other.seconds)


class MeteredExecutor:
    """Counts and times the chunks of another executor."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.name, self.slots, self.steps, self.lanes = inner.name, inner.slots, inner.steps, inner.lanes
        self.conditioners = inner.conditioners
        self.condition, self.teacher_forced = inner.condition, inner.teacher_forced
        self.recent: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        """Streams and seconds of the last chunks, in the order of their ends."""
        self._lock = threading.Lock()
        self._meter = Meter()

    @contextmanager
    def lane(self, streams: int) -> Iterator[Lane]:
        with self.inner.lane(streams) as lane:
            yield _MeteredLane(self, lane)

    def read(self) -> Meter:
        """The counters now."""
        with self._lock:
            return self._meter

    def count(self, rows: int, seconds: float) -> None:
        """Counts a chunk."""
        with self._lock:
            one = self._meter
            self._meter = Meter(one.chunks + 1, one.rows + rows, one.seconds + seconds)
            self.recent.append((rows, seconds))

    def chunk_seconds(self) -> float | None:
        """Median time of the recent chunks with the most streams; ``None`` before the first chunk."""
        with self._lock:
            recent = list(self.recent)
        most = max((rows for rows, _ in recent), default=0)
        return float(np.median([seconds for rows, seconds in recent if rows == most])) if recent else None


class _MeteredLane:
    """Needs no lock: only one thread at a time calls a lane."""

    def __init__(self, executor: MeteredExecutor, inner: Lane) -> None:
        self._executor, self._inner = executor, inner
        self.slots, self.ahead = inner.slots, inner.ahead
        self._submitted: deque[tuple[int, float]] = deque()

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
