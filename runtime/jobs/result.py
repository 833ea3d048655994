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
"""Errors that every further output would meet as well, and the way out of each."""


@dataclass(frozen=True)
class JobOptions:
    """Options that apply to all jobs of a run."""

    fold: int | None = None
    overlap: int | None = None
    floating: bool = False
    """32-bit floating-point WAV files instead of 16-bit ones."""
    overwrite: bool = False
    """Overwrite existing outputs; otherwise their jobs are skipped."""
    mel_from: str | None = None
    """Level convention of the mels, a name in `mel_comparison.conventions`; ``None`` means the model's."""


@dataclass(frozen=True)
class JobResult:
    """Outcome of a job."""

    job: Job
    status: Status
    samples: int = 0
    """Samples written."""
    elapsed: float = 0.0
    """Seconds from reading the input to the finished output, the time of jobs decoded in parallel included."""
    error: str | None = None
    clipped: int = 0
    """Samples clipped to the 16-bit range."""
    warnings: tuple[str, ...] = ()
    """Faults of the input that did not prevent reading it."""


class JobsStopped(RuntimeError):
    """No further job can succeed; jobs without a result are left for the next run."""


class Progress:
    """Callbacks of a run; this base class does nothing. Steps are samples, a fold's warm-up included."""

    def decoded(self, steps: int) -> None:
        """Counts decoded steps; called from several threads and blocks them."""

    def closed(self, result: JobResult) -> None:
        """Counts a job that has ended; called from the thread that iterates over the results."""


class Stop:
    """Request to end a run early; can be made from any thread and from a signal handler."""

    def __init__(self) -> None:
        self.requested = False
        self._wake: Callable[[], None] | None = None

    def request(self) -> None:
        """Requests the end of the run: decoded outputs are still written, other jobs are cancelled."""
        self.requested = True
        if self._wake is not None:
            self._wake()

    def watch(self, wake: Callable[[], None]) -> None:
        """Registers the run's callback, and calls it if the end was already requested."""
        self._wake = wake
        if self.requested:
            wake()


def failure(job: Job, error: BaseException, warnings: tuple[str, ...] = ()) -> JobResult:
    """Returns the result of a job that failed."""
    logger.debug("%s failed", job.input, exc_info=error)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or job.output}: {error.strerror}"
    elif not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    return JobResult(job, "failed", error=text.removeprefix(f"{job.input}: "), warnings=warnings)


def stopping_reason(error: BaseException) -> str | None:
    """Returns the reason and the way out if an error prevents all further outputs too, else ``None``."""
    if not isinstance(error, OSError) or error.errno not in _WAYS_OUT:
        return None
    return f"{error.filename}: {error.strerror}; {_WAYS_OUT[error.errno]}"
