"""Running jobs: files to files, decoded together, in bounded memory, one bad file not stopping the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial

from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.reader import JobReader
from wavernn_trt.runtime.jobs.result import JobOptions as JobOptions
from wavernn_trt.runtime.jobs.result import JobResult as JobResult
from wavernn_trt.runtime.jobs.result import JobsStopped as JobsStopped
from wavernn_trt.runtime.jobs.result import Progress as Progress
from wavernn_trt.runtime.jobs.result import Status as Status
from wavernn_trt.runtime.jobs.state import Ended, Exhausted, Halted, JobState
from wavernn_trt.runtime.jobs.writer import JobWriter
from wavernn_trt.runtime.vocoder import Vocoder

_JOIN_SECONDS = 5.0
"""How long a run that is stopped waits for its reader, which may be in the middle of an hour of speech."""


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
        """For the run: how to reach it."""
        self._wake = wake
        if self.requested:
            wake()


def run_jobs(
    vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress, stop: Stop | None = None
) -> Generator[JobResult, None, None]:
    """Runs jobs, as many together as the vocoder's batch holds.

    One thread reads inputs ahead and another writes outputs behind; what is under way is bounded (`Room`), and nothing
    is kept of jobs that have ended. Whoever leaves the iteration ends the run.

    Args:
        vocoder: speaks. Several runs may share it.
        jobs: from `plan_jobs`; a generator is pulled, in another thread, as there is room for another.
        options: for all of them.
        progress: is told.
        stop: ends the run early, and with it the iteration.

    Yields:
        A result for each job, in the order in which they end. An output is on the disk before its result is yielded.

    Raises:
        JobsStopped: no further output can be written, or the executor was given up; after the results of all jobs that
            ended. A job that never got a result has no output and can be run again.
    """
    state = JobState(vocoder.statistics().slots)
    reader = JobReader(vocoder, jobs, options, progress, state)
    writer = JobWriter(state, vocoder.sample_rate, floating=options.floating)
    reading = _thread("reader", state, reader.run, at_once=False)
    writing = _thread("writer", state, writer.run, at_once=True)
    if stop is not None:
        stop.watch(lambda: state.messages.put(Halted()))
    reading.start()
    writing.start()
    try:
        yield from _results(state, progress)
    finally:
        state.stop()
        state.decoded.put(None)
        writing.join()
        reading.join(_JOIN_SECONDS)


def _thread(name: str, state: JobState, work: Callable[[], None], *, at_once: bool) -> threading.Thread:
    guarded = partial(state.guarded, work, at_once=at_once)
    return threading.Thread(target=guarded, name=f"wavernn-trt {name}", daemon=True)


def _results(state: JobState, progress: Progress) -> Iterator[JobResult]:
    ended, last, error = 0, False, None
    while not (last and ended == state.submitted):
        message = state.messages.get()
        if isinstance(message, Ended):
            ended += message.submitted
            if message.result is not None:
                progress.closed(message.result)
                yield message.result
            state.room.leave(message.size)
        elif isinstance(message, Exhausted):
            last = True
        elif isinstance(message, Halted):
            state.stop()
            last = True
            error = error or message.error
            if error is not None and message.at_once:
                raise error
    if error is not None:
        raise error
