"""A Ray worker: loads the model once and vocodes the jobs that it is given, several calls at a time.

Calls of one actor share its vocoder, so that slots which one call's last utterances leave are taken by the next call's
first. Jobs and outcomes travel as JSON in a column of text each, which Ray hands around.
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
    """Some of the jobs, with their numbers; paths are absolute, for workers have folders of their own."""
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
    """One worker's vocoder."""

    def __init__(self, load: Callable[[], Vocoder], options: JobOptions) -> None:
        """Loads the model. If that fails, every call returns the reason: Ray would wrap an error in pages of its own.

        Args:
            load: makes the vocoder.
            options: of all jobs.
        """
        self._options = options
        self._refusal: str | None = None
        try:
            self._vocoder = load()
        except ValueError as error:
            self._refusal = str(error)
        except Exception as error:
            self._refusal = f"{type(error).__name__}: {error}"

    def __call__(self, rows: Rows) -> dict[str, list[str]]:
        """Vocodes jobs.

        Args:
            rows: from `to_rows`.

        Returns:
            JSON, an object for each job as they end: its ``number``, and status, samples, elapsed, error and warnings
            as in `JobResult`, and the vocoder's backend and engine. Behind them one with the reason that has
            ``stopped`` the run, if something has; or only one with a ``refusal``, if there is no vocoder.
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
                    }
                )
        except JobsStopped as error:
            if self._vocoder.statistics().lost_lanes:
                # The executor was given up. In another process, or on another GPU, the jobs may yet be vocoded: Ray
                # sends them there when this one dies.
                os._exit(1)
            outcomes.append({"stopped": str(error)})
        return {"outcome": list(map(json.dumps, outcomes))}
