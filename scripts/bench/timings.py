"""What one repeat took, and the repeats of everything that takes its turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Place = Literal["cpu", "gpu"]
"""Where a subject computes, which decides what it is held against."""


def place_of_device(device: str) -> Place:
    """Where PyTorch computes on one of its devices."""
    return "cpu" if device == "cpu" else "gpu"


@dataclass(frozen=True)
class Repeat:
    """What one repeat took; see `Timing`."""

    elapsed: float
    first_chunk: float | None = None
    chunk: float | None = None


@dataclass
class Timing:
    """The repeats of one subject at one batch."""

    subject: str
    """A backend or a peer, as the table calls it."""
    batch: int
    """Streams decoded together."""
    samples: int
    """Samples that a repeat makes, of all streams together."""
    chunk_samples: int | None = None
    """Of each stream, that are decoded at a time; ``None`` for peers."""
    place: Place = "cpu"
    precision: str = "fp32"
    """Of the weights: `WeightPrecision`, or ``fp64``."""
    engine: str | None = None
    """The plan or kernel that a backend on a GPU runs; ``None`` for the others."""
    elapsed: list[float] = field(default_factory=list)
    """Seconds of each repeat, from mels in hand to waveforms."""
    first_chunk: list[float] = field(default_factory=list)
    """Seconds of each repeat from mels in hand until every stream has its first 20 ms; none for peers."""
    chunk: list[float] = field(default_factory=list)
    """Median seconds of each repeat's chunks, those that had the most streams; none for peers."""

    def add(self, repeat: Repeat) -> None:
        """Takes a repeat in."""
        self.elapsed.append(repeat.elapsed)
        if repeat.first_chunk is not None:
            self.first_chunk.append(repeat.first_chunk)
        if repeat.chunk is not None:
            self.chunk.append(repeat.chunk)


@dataclass
class Measurement:
    """All repeats, unreduced."""

    timings: list[Timing]
    batches: list[int]
    """In the order in which a round goes through them."""
    loads: dict[str, list[float]]
    """Seconds that opening the model took with each backend; the first of them meets a cold file cache."""
    ceilings: dict[str, list[list[float]]]
    """What was measured beside them: for each of `Ceilings`' names, for each round, a figure at each batch."""
    peers: list[str]
    """Those of the subjects that are peers."""
    missing: dict[str, str]
    """Subjects that could not be measured, and why."""
