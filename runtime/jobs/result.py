"""Options of a run, results of its jobs, callbacks for progress, and the request to stop."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wavernn_trt.runtime.jobs.plan import Job

logger = logging.getLogger(__name__)

Status = Literal["done", "skipped", "failed"]

_WAYS_OUT = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EROFS: "make the file system writable, or choose another output folder",
}
"""Errors that every further file would meet as well, and what to do about them."""


@dataclass(frozen=True)
class JobOptions:
    """How to run jobs."""

    fold: int | None = None
    overlap: int | None = None
    floating: bool = False
    """32-bit floating-point WAV files instead of 16-bit ones."""
    overwrite: bool = False
    """Replace outputs that exist; else their jobs are skipped."""
    mel_from: str | None = None
    """Level convention of the mels, a name in `mel_comparison.conventions`; ``None`` is the model's own."""


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
    clipped: int = 0
    """Samples that 16 bits did not hold."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the input although it could be read."""


class JobsStopped(RuntimeError):
    """No further job can succeed; those without a result are left for the next run. Says why, and the way out."""


class Progress:
    """Callbacks of a run; these do nothing. Steps are samples, a fold's warm-up included."""

    def decoded(self, steps: int) -> None:
        """Counts decoded steps; called from several threads, which wait meanwhile."""

    def closed(self, result: JobResult) -> None:
        """Counts a job that has ended; called from the thread that takes the results."""


class Stop:
    """Ends a run before its jobs do; from any thread, and from a signal's handler."""

    def __init__(self) -> None:
        """Lets the run go on."""
        self.requested = False
        self._wake: Callable[[], None] | None = None

    def request(self) -> None:
        """Asks for the end: what is decoded is still written, and what is not is given up."""
        self.requested = True
        if self._wake is not None:
            self._wake()

    def watch(self, wake: Callable[[], None]) -> None:
        """Registers the run's callback, and calls it if the end was asked for already."""
        self._wake = wake
        if self.requested:
            wake()


def failure(job: Job, error: BaseException, warnings: tuple[str, ...] = ()) -> JobResult:
    """The result of a job that failed."""
    logger.debug("%s failed", job.input, exc_info=error)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or job.output}: {error.strerror}"
    elif not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    return JobResult(job, "failed", error=text.removeprefix(f"{job.input}: "), warnings=warnings)


def stopping_reason(error: BaseException) -> str | None:
    """Why an error of one output is one of all others too, and the way out; ``None`` where it is not."""
    if not isinstance(error, OSError) or error.errno not in _WAYS_OUT:
        return None
    return f"{error.filename}: {error.strerror}; {_WAYS_OUT[error.errno]}"
