"""The report of ``vocode`` on all files: totals that are counted as files end, and the JSON document on stdout."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from wavernn_trt.runtime.jobs.report import real_time_factor
from wavernn_trt.runtime.jobs.result import JobResult, Progress, Stop
from wavernn_trt.scripts import PROGRAM


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and what decoded it."""

    result: JobResult
    backend: str | None = None
    """``None`` where no vocoder was needed, or a worker died."""
    engine: str | None = None


Start = Callable[[Progress, Stop], Generator[Outcome, None, None]]
"""Begins the run of all jobs, in this process or on Ray."""


class Totals:
    """Counts the files that have ended."""

    def __init__(self, sample_rate: int, *names: str | None) -> None:
        """Begins to count, and to measure the time.

        Args:
            sample_rate: Hz, of what is written.
            names: of the backend and the engine, where they are known already.
        """
        self._names = dict.fromkeys(filter(None, names))  # in the order of appearance
        self.counts: Counter[str] = Counter()
        self._sample_rate = sample_rate
        self._samples = 0
        self._clipped = 0
        self._warned = 0
        self._started = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Counts a file."""
        result = outcome.result
        self._names |= dict.fromkeys(filter(None, (outcome.backend, outcome.engine)))
        self.counts[result.status] += 1
        self._samples += result.samples
        self._clipped += result.clipped > 0
        self._warned += bool(result.warnings)

    def row(self) -> dict[str, Any]:
        """The totals as in JSON."""
        elapsed = time.perf_counter() - self._started
        seconds = self._samples / self._sample_rate
        return {
            "done": self.counts["done"],
            "skipped": self.counts["skipped"],
            "failed": self.counts["failed"],
            "seconds": seconds,
            "elapsed": round(elapsed, 3),
            "rtf": real_time_factor(elapsed, seconds),
        }

    def summary(self, left: int, *where: str) -> str:
        """The totals in one line.

        Args:
            left: files that the run did not come to.
            where: stands behind the names of backends and engines.
        """
        totals = self.row()
        counts = [f"{totals['done']} done"]
        counts += [f"{totals[status]} {status}" for status in ("skipped", "failed") if totals[status]]
        counts += [f"{left} left for the next run"] if left else []
        speed = f"; real-time factor {totals['rtf']:.2f}" if totals["rtf"] is not None else ""
        hint = " (outputs are there; --overwrite replaces them)" if totals["skipped"] else ""
        clipped = f"; {self._clipped} with clipped samples (--float keeps them)" if self._clipped else ""
        warned = f"; {self._warned} with warnings" if self._warned else ""
        speech = f"{totals['seconds']:.1f} s of speech in {totals['elapsed']:.1f} s"
        names = ", ".join((*self._names, *where))
        return f"{PROGRAM}: {', '.join(counts)}{hint}{clipped}{warned}; {speech}{speed} ({names})"


class JsonDocument:
    """One JSON object that is written while its files end, so that none of them has to be kept."""

    def __init__(self, stream: IO[str], head: Mapping[str, Any]) -> None:
        """Writes what is known before.

        Args:
            stream: where to.
            head: the object's first members.
        """
        self._stream = stream
        self._separator = "\n"
        members = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
        stream.write(f'{{\n{members} "files": [')

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a file's result."""
        self._stream.write(f"{self._separator}  {json.dumps(row)}")
        self._separator = ",\n"

    def close(self, **tail: Any) -> None:
        """Writes the last members, and the end."""
        members = "".join(f",\n {json.dumps(name)}: {json.dumps(value)}" for name, value in tail.items())
        self._stream.write(f"\n ]{members}\n}}\n")
        self._stream.flush()
