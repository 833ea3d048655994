"""A Ray worker: loads the model once and vocodes batches of jobs.

An actor runs several calls at a time on one vocoder, so that the next call's first utterances fill the slots that the
last utterances of a call leave free. Jobs and outcomes are passed as JSON in a text column of Ray's tables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.runtime.jobs.pipeline import run_jobs
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobsStopped, Progress
from wavernn_trt.runtime.vocoder import Vocoder

Rows = Mapping[str, Sequence[str]]


def to_rows(jobs: Sequence[Job], numbers: Sequence[int]) -> dict[str, list[str]]:
    """Encodes the jobs of these numbers. Paths become absolute, as workers have other current folders."""
    return {"job": [json.dumps(_describe(jobs[number], number)) for number in numbers]}


def _describe(job: Job, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "input": str(job.input.absolute()),
        "output": str(job.output.absolute()),
        "seed": job.seed,
        "sample_rate": job.sample_rate,
    }


class VocoderActor:
    """The vocoder of a worker."""

    def __init__(self, load: Callable[[], Vocoder], options: JobOptions) -> None:
        """Loads the model. If that fails, every call returns the reason; Ray would wrap an exception in many lines."""
        self._options = options
        self._refusal: str | None = None
        try:
            self._vocoder = load()
        except ValueError as error:
            self._refusal = str(error)
        except Exception as error:
            self._refusal = f"{type(error).__name__}: {error}"

    def __call__(self, rows: Rows) -> dict[str, list[str]]:
        """Vocodes the jobs of `to_rows`.

        Returns:
            A JSON object for each job, in the order they end: its ``number``, and status, samples, elapsed, error and
            warnings as in `JobResult`, and the vocoder's backend and engine. If the run was stopped, a last object with
            the reason as ``stopped``. If there is no vocoder, only an object with the reason as ``refusal``.
        """
        if self._refusal is not None:
            return {"outcome": [json.dumps({"refusal": self._refusal})]}
        jobs: dict[Job, int] = {}
        for row in map(json.loads, rows["job"]):
            jobs[Job(Path(row["input"]), Path(row["output"]), row["seed"], row["sample_rate"])] = row["number"]
        outcomes: list[dict[str, Any]] = []
        try:
            for result in run_jobs(self._vocoder, list(jobs), self._options, Progress()):
                outcomes.append(
                    {
                        "number": jobs[result.job],
                        "status": result.status,
                        "samples": result.samples,
                        "elapsed": result.elapsed,
                        "error": result.error,
                        "warnings": result.warnings,
                        "backend": self._vocoder.backend,
                        "engine": self._vocoder.engine,
                        "precision": self._vocoder.precision,
                    }
                )
        except JobsStopped as error:
            if self._vocoder.state == "broken":
                # The executor has failed for good. Another process or GPU may still vocode the jobs: Ray sends them
                # there when this process ends.
                os._exit(1)
            outcomes.append({"stopped": str(error)})
        return {"outcome": list(map(json.dumps, outcomes))}
