"""What a Ray worker does: loads the model once, and speaks the jobs that it is given, several calls at a time.

Calls of one actor share its vocoder, so that slots which one call's last utterances leave are taken by the next call's
first. Rows are what Ray hands around: a dictionary of columns, a job each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.export.operators import Precision
from wavernn_trt.runtime.jobs.pipeline import run_jobs
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress
from wavernn_trt.runtime.vocoder import Vocoder

Rows = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Loading:
    """What `Vocoder.load` is called with; paths are absolute, for workers have folders of their own."""

    model: Path | None
    backend: str
    batch: int | None
    threads: int | None
    precision: Precision | None
    cache: Path | None

    def load(self) -> Vocoder:
        """The vocoder.

        Raises:
            ValueError: as for `Vocoder.load`.
        """
        return Vocoder.load(
            self.model,
            self.backend,
            batch=self.batch,
            threads=self.threads,
            precision=self.precision,
            cache=self.cache,
        )


def to_rows(jobs: Sequence[Job], numbers: Sequence[int]) -> dict[str, list[Any]]:
    """Some of the jobs as Ray takes them: integers of 64 bits with a sign, and text; paths are absolute here too."""
    chosen = [jobs[number] for number in numbers]
    return {
        "number": list(numbers),
        "input": [str(job.input.absolute()) for job in chosen],
        "output": [str(job.output.absolute()) for job in chosen],
        "seed": [str(job.seed) for job in chosen],
        "sample_rate": [job.sample_rate or 0 for job in chosen],
    }


class VocoderActor:
    """One worker's vocoder."""

    def __init__(self, loading: Loading, options: JobOptions) -> None:
        """Loads the model. If it cannot be, every call says why: Ray would wrap an error in pages of its own.

        Args:
            loading: the model.
            options: of all jobs.
        """
        self._options = options
        self._refusal = ""
        try:
            self._vocoder = loading.load()
        except ValueError as error:
            self._refusal = str(error)
        except Exception as error:
            self._refusal = f"{type(error).__name__}: {error}"

    def __call__(self, rows: Rows) -> dict[str, list[Any]]:
        """Speaks jobs.

        Args:
            rows: from `to_rows`.

        Returns:
            A row for each job, as they end: its number, status, samples, elapsed and error as in `JobResult`, the
            warnings as JSON; backend and engine of the vocoder. Behind them one that says what has ``stopped`` the
            run, if something has; or only rows with a ``refusal``, if there is no vocoder.
        """
        jobs = dict(_jobs(rows))
        if self._refusal:
            return _columns({"number": number, "refusal": self._refusal} for number in jobs.values())
        told: list[dict[str, Any]] = []
        try:
            for result in run_jobs(self._vocoder, list(jobs), self._options, Progress()):
                told.append(self._row(jobs[result.job], result))
        except JobsStopped as error:
            if self._vocoder.statistics().lost_lanes:
                # The executor was given up. In another process, or on another GPU, the jobs may yet be spoken: Ray
                # sends them there when this one dies.
                os._exit(1)
            told.append({"stopped": str(error)})
        return _columns(told)

    def _row(self, number: int, result: JobResult) -> dict[str, Any]:
        return {
            "number": number,
            "status": result.status,
            "samples": result.samples,
            "elapsed": result.elapsed,
            "error": result.error or "",
            "warnings": json.dumps(result.warnings),
            "backend": self._vocoder.backend,
            "engine": self._vocoder.engine or "",
        }


def _jobs(rows: Rows) -> Iterator[tuple[Job, int]]:
    """Jobs, and their numbers."""
    for index, number in enumerate(rows["number"]):
        source, output = Path(rows["input"][index]), Path(rows["output"][index])
        yield Job(source, output, int(rows["seed"][index]), int(rows["sample_rate"][index]) or None), int(number)


_EMPTY = {
    "number": 0,
    "status": "failed",
    "samples": 0,
    "elapsed": 0.0,
    "error": "",
    "warnings": "[]",
    "backend": "",
    "engine": "",
    "stopped": "",
    "refusal": "",
}


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows to columns, each with the same types in every call, which Ray joins."""
    whole = [{**_EMPTY, **row} for row in rows]
    return {name: [row[name] for row in whole] for name in _EMPTY}
