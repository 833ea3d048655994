"""The report of ``vocode``: totals over the files, and the JSON document on stdout."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from wavernn_trt.runtime.jobs.report import real_time_factor
from wavernn_trt.runtime.jobs.result import JobResult, Progress, Stop


@dataclass(frozen=True)
class Outcome:
    """The result of a job, and the backend that decoded it."""

    result: JobResult
    backend: str | None = None
    """``None`` if no vocoder was needed, or the worker died."""
    engine: str | None = None
    precision: str | None = None
    """Of the decoder, if the backend has a choice."""


Start = Callable[[Progress, Stop], Generator[Outcome, None, None]]
"""Starts the run of all jobs, in this process or on Ray."""


class Totals:
    """Counts results, samples and time from its creation on."""

    def __init__(self, sample_rate: int, *names: str | None) -> None:
        """Starts the time measurement.

        Args:
            sample_rate: Hz, of the outputs.
            names: of the backend and of the engine or the precision, if already known.
        """
        self._names = dict.fromkeys(filter(None, names))  # in the order of appearance
        self.counts: Counter[str] = Counter()
        self._sample_rate = sample_rate
        self._samples = 0
        self._clipped = 0
        self._warned = 0
        self._started = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Adds the outcome of a file."""
        result = outcome.result
        self._names |= dict.fromkeys(filter(None, (outcome.backend, outcome.engine or outcome.precision)))
        self.counts[result.status] += 1
        self._samples += result.samples
        self._clipped += result.clipped > 0
        self._warned += bool(result.warnings)

    def row(self) -> dict[str, Any]:
        """Returns the totals as JSON values."""
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
        """Returns the totals as one line of text.

        Args:
            left: number of files that were not processed.
            where: printed after these names.
        """
        totals = self.row()
        counts = [f"{totals['done']} done"]
        counts += [f"{totals[status]} {status}" for status in ("skipped", "failed") if totals[status]]
        counts += [f"{left} left for the next run"] if left else []
        speed = f"; real-time factor {totals['rtf']:.2f}" if totals["rtf"] is not None else ""
        hint = " (outputs exist; --overwrite replaces them)" if totals["skipped"] else ""
        clipped = f"; {self._clipped} with clipped samples (--float keeps them)" if self._clipped else ""
        warned = f"; {self._warned} with warnings" if self._warned else ""
        speech = f"{totals['seconds']:.1f} s of speech in {totals['elapsed']:.1f} s"
        names = ", ".join((*self._names, *where))
        return f"{', '.join(counts)}{hint}{clipped}{warned}; {speech}{speed} ({names})"


class JsonDocument:
    """Writes a JSON object file by file, so that no results are kept in memory."""

    def __init__(self, stream: IO[str], head: Mapping[str, Any]) -> None:
        """Writes the object's first members."""
        self._stream = stream
        self._separator = "\n"
        members = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
        stream.write(f'{{\n{members} "files": [')

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes the result of a file."""
        self._stream.write(f"{self._separator}  {json.dumps(row)}")
        self._separator = ",\n"

    def close(self, **tail: Any) -> None:
        """Writes the last members and ends the object."""
        members = "".join(f",\n {json.dumps(name)}: {json.dumps(value)}" for name, value in tail.items())
        self._stream.write(f"\n ]{members}\n}}\n")
        self._stream.flush()
