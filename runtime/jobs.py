"""Running jobs: files to files, decoded together, one bad file not stopping the rest."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from wavernn_trt.runtime.audio import MEL_SUFFIX, read_audio, read_mel, write_wav
from wavernn_trt.runtime.job_plan import Job
from wavernn_trt.runtime.output_files import prepare_output
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

logger = logging.getLogger(__name__)

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    job: Job
    status: Status
    samples: int = 0
    """Samples written."""
    elapsed: float = 0.0
    """Seconds from reading the input to the finished output; jobs that are decoded together share them."""
    error: str | None = None


class Progress(Protocol):
    """Is told how the work goes on; steps are samples, a fold's warm-up included."""

    def decoded(self, steps: int) -> None:
        """So many more steps are decoded."""

    def closed(self, result: JobResult) -> None:
        """A job has ended."""


@dataclass(frozen=True)
class JobOptions:
    """How to run jobs."""

    fold: int | None = None
    overlap: int | None = None
    floating: bool = False
    """32-bit floating-point WAV files instead of 16-bit ones."""
    overwrite: bool = False
    """Make outputs anew that are there; else their jobs are skipped."""


@dataclass
class _Running:
    job: Job
    started: float


def run_jobs(vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress) -> Iterator[JobResult]:
    """Runs jobs, as many together as the vocoder's batch holds.

    Args:
        vocoder: speaks.
        jobs: from `plan_jobs`; a generator is pulled as there is room for another.
        options: for all of them.
        progress: is told.

    Yields:
        A result for each job, in the order in which they end.
    """
    ended: list[JobResult] = []
    running: dict[int, _Running] = {}

    def requests() -> Iterator[Request]:
        number = 0
        for job in jobs:
            if os.path.isfile(job.output) and not options.overwrite:  # Path.is_file raises for a name too long
                ended.append(JobResult(job, "skipped"))
                continue
            started = time.perf_counter()
            try:
                request = _open(vocoder, job, options)
                prepare_output(job.output)
            except Exception as error:  # whatever is wrong with one file, the others can still be spoken
                ended.append(_failure(job, error))
                continue
            running[number] = _Running(job, started)
            number += 1
            yield request

    def closed() -> Iterator[JobResult]:
        while ended:
            result = ended.pop(0)
            progress.closed(result)
            yield result

    for number, ticket in vocoder.vocode_many(requests(), order="completed", progress=progress.decoded):
        current = running.pop(number)
        try:
            waveform = ticket.result()
            write_wav(current.job.output, waveform, vocoder.sample_rate, floating=options.floating)
        except Exception as error:
            ended.append(_failure(current.job, error))
        else:
            ended.append(JobResult(current.job, "done", len(waveform), time.perf_counter() - current.started))
        yield from closed()
    yield from closed()


def _open(vocoder: Vocoder, job: Job, options: JobOptions) -> Request:
    if job.input.suffix.lower() == MEL_SUFFIX:
        mel = read_mel(job.input)
        return Request(mel, job.seed, None, options.fold, options.overlap, job.sample_rate)
    mel = vocoder.mel(*read_audio(job.input))
    return Request(mel, job.seed, None, options.fold, options.overlap)


def _failure(job: Job, error: Exception) -> JobResult:
    logger.debug("%s failed", job.input, exc_info=error)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or job.output}: {error.strerror}"
    elif not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    return JobResult(job, "failed", error=text.removeprefix(f"{job.input}: "))
