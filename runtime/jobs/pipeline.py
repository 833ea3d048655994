"""Runs jobs in a bounded pipeline: a thread reads inputs ahead, the vocoder decodes, a thread writes behind."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.errors import ExecutorError
from wavernn_trt.runtime.files.audio import begin_wav, clipped_samples, clipping
from wavernn_trt.runtime.files.output_files import OutputFile, flush_folder, is_finished, prepare_output
from wavernn_trt.runtime.files.standard_streams import is_standard_output
from wavernn_trt.runtime.jobs.job_request import read_request, request_bytes
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress, Stop, failure, stopping_reason
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.vocoder import Vocoder

logger = logging.getLogger(__name__)

_ROUNDS = 4
"""Files in flight, in multiples of the slots: as many again are conditioned, are read, and are written, so that neither
a slow disk nor a long file among short ones leaves a slot empty."""
_FEWEST = 16
"""Files in flight at least: a lane of one slot may still meet sixteen bad or finished files in a row."""
_MOST_BYTES = 2**30
"""Mels and waveforms in flight. A file that takes more is vocoded alone. The file that is being read comes on top of
it, for its length is not known before; and so does conditioning, which `SchedulerLimits` bounds."""
_GROUP = 32
"""Files that are flushed together, where so many wait: the more, the less each costs. Their waveforms are kept no
longer; so many files are open."""
_CLIPPING_WARNINGS = 3
"""Files whose clipped samples are logged one by one; of thousands of files hundreds may have some."""
_JOIN_SECONDS = 5.0
"""How long a run that is stopped waits for its reader, which may be in the middle of an hour of speech."""


def run_jobs(
    vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress, stop: Stop | None = None
) -> Generator[JobResult, None, None]:
    """Runs jobs, as many together as the vocoder's batch holds.

    What is in flight is bounded (`InFlightLimit`), and nothing is kept of jobs that have ended. Closing the generator
    ends the run.

    Args:
        vocoder: may be shared by several runs.
        jobs: from `plan_jobs`; a generator is pulled, in another thread, as there is room for another.
        options: for all of them.
        progress: callbacks.
        stop: ends the run early, and with it the iteration.

    Yields:
        A result for each job, in the order in which they end. An output is on the disk before its result is yielded.

    Raises:
        JobsStopped: no further output can be written, or the executor was given up; after the results of all jobs that
            ended. A job that never got a result has no output and can be run again.
    """
    pipeline = Pipeline(vocoder, jobs, options, progress)
    reader = threading.Thread(target=pipeline.read, name="wavernn-trt reader", daemon=True)
    writer = threading.Thread(target=pipeline.write, name="wavernn-trt writer", daemon=True)
    if stop is not None:
        stop.watch(lambda: pipeline.messages.put(Halted()))
    reader.start()
    writer.start()
    try:
        yield from pipeline.results()
    finally:
        pipeline.stop()
        pipeline.decoded.put(None)
        writer.join()
        reader.join(_JOIN_SECONDS)


class InFlightLimit:
    """Bounds the files, and the bytes of their mels and waveforms, between reading and the result."""

    def __init__(self, slots: int) -> None:
        """Begins with none.

        Args:
            slots: utterances that are decoded together.
        """
        self.files = max(_FEWEST, _ROUNDS * slots)
        """The most that are in flight."""
        self._changed = threading.Condition()
        self._taken = 0
        self._bytes = 0
        self._closed = False

    def enter(self) -> bool:
        """Waits for room for another file, and takes it; returns whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._taken < self.files)
            self._taken += 1
            return not self._closed

    def grow(self, size: int) -> bool:
        """Waits for room for a file's bytes, and takes it; returns whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._bytes or self._bytes + size <= _MOST_BYTES)
            self._bytes += size
            return not self._closed

    def leave(self, size: int) -> None:
        """Gives back a file's place, and its bytes."""
        with self._changed:
            self._taken -= 1
            self._bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Lets nothing more in, and ends all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(eq=False)
class _Entry:
    """A job in flight."""

    job: Job
    started: float
    """When reading began, on the clock of `time.perf_counter`."""
    size: int = 0
    """Bytes that it has in the `InFlightLimit`."""
    warnings: tuple[str, ...] = ()
    """See `JobResult`, as the fields below."""
    samples: int = 0
    clipped: int = 0


_Decoded = tuple[_Entry, Future[FloatArray]]


@dataclass(frozen=True)
class Ended:
    """Message: a job is in flight no more."""

    result: JobResult | None
    """``None`` if it is left for another run."""
    size: int
    submitted: bool
    """Whether the vocoder had it."""


@dataclass(frozen=True)
class Exhausted:
    """Message: all jobs were read."""


@dataclass(frozen=True)
class Halted:
    """Message: the run is to end before its jobs do."""

    error: BaseException | None = None
    """To be raised when what is in flight has ended."""
    at_once: bool = False
    """Whether what is in flight cannot end any more."""


class Pipeline:
    """The three stages of a run, and what their threads share."""

    def __init__(self, vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress) -> None:
        """Takes the arguments of `run_jobs`."""
        self.limit = InFlightLimit(vocoder.statistics().slots)
        self.messages: queue.SimpleQueue[Ended | Exhausted | Halted] = queue.SimpleQueue()
        """For `results`."""
        self.decoded: queue.SimpleQueue[_Decoded | None] = queue.SimpleQueue()
        """For the writer; ``None`` is the end."""
        self._vocoder = vocoder
        # Longest first would leave fewer slots empty at the very end. But every header would have to be read before the
        # first file is begun, neighbours on the disk would be torn apart, and one would not see from the outputs how
        # far a run got.
        self._jobs = iter(jobs)
        self._options = options
        self._progress = progress
        self._proved: Path | None = None  # the folder that the last output was proved to go into
        self._clipping_warnings = 0
        self._lock = threading.Lock()
        self._tickets: dict[_Entry, Ticket] = {}
        self._submitted = 0  # final when the run is stopped
        self._stopped = False  # no job is submitted any more
        self._full = False  # no output can be written any more

    # Results: the thread of the caller.

    def results(self) -> Iterator[JobResult]:
        """Yields a result for each job that ends; see `run_jobs`."""
        ended, last, error = 0, False, None
        while not (last and ended == self._submitted):
            message = self.messages.get()
            if isinstance(message, Ended):
                ended += message.submitted
                if message.result is not None:
                    self._progress.closed(message.result)
                    yield message.result
                self.limit.leave(message.size)
            elif isinstance(message, Exhausted):
                last = True
            else:
                self.stop()
                last = True
                error = error or message.error
                if error is not None and message.at_once:
                    raise error
        if error is not None:
            raise error

    def stop(self) -> None:
        """Begins nothing new, and gives up what is not decoded."""
        with self._lock:
            self._stopped = True
            tickets = list(self._tickets.values())
        self.limit.close()
        for ticket in tickets:
            ticket.cancel()

    def _halt(self, error: BaseException, *, at_once: bool = False) -> None:
        self.stop()
        self.messages.put(Halted(error, at_once))

    def _end(self, entry: _Entry, result: JobResult | None) -> None:
        with self._lock:
            submitted = self._tickets.pop(entry, None) is not None
        self.messages.put(Ended(result, entry.size, submitted))

    def _fail(self, entry: _Entry, error: Exception) -> None:
        self._end(entry, failure(entry.job, error, entry.warnings))
        if (reason := stopping_reason(error)) is not None:
            self._full = True
            self._halt(JobsStopped(reason))

    # First stage: a thread that reads ahead.

    def read(self) -> None:
        """Opens inputs in the order of the jobs and submits them, until the jobs or the run end."""
        try:
            while self.limit.enter():
                job = next(self._jobs, None)
                if job is None:
                    self.messages.put(Exhausted())
                    return
                self._submit(_Entry(job, time.perf_counter()))
        except BaseException as error:
            self._halt(error)

    def _submit(self, entry: _Entry) -> None:
        job = entry.job
        if not self._options.overwrite and is_finished(job.output):
            self._end(entry, JobResult(job, "skipped"))
            return
        try:
            request, entry.warnings = read_request(self._vocoder, job, self._options)
            self._prepare(job.output)
            size = request_bytes(self._vocoder, request)
            if not self.limit.grow(size):
                return
            entry.size = size
            ticket = self._vocoder.submit(request, progress=self._progress.decoded)
        except ExecutorError as error:
            self._halt(JobsStopped(str(error)))
        except Exception as error:  # whatever is wrong with one file, the others can still be vocoded
            self._fail(entry, error)
        else:
            self.follow(entry, ticket)

    def _prepare(self, output: Path) -> None:
        if is_standard_output(output):
            return
        prepare_output(output, prove=output.parent != self._proved)
        self._proved = output.parent

    # Second stage: the vocoder's threads.

    def follow(self, entry: _Entry, ticket: Ticket) -> None:
        """Counts a job as submitted; the writer gets its ticket when it is decoded."""
        with self._lock:
            follows = not self._stopped
            if follows:
                self._submitted += 1
                self._tickets[entry] = ticket
        if follows:
            ticket.add_done_callback(lambda done: self.decoded.put((entry, done)))
        else:
            ticket.cancel()

    # Third stage: a thread that writes behind.

    def write(self) -> None:
        """Writes what is decoded, until ``None`` comes."""
        try:
            going_on = True
            while going_on:
                group, going_on = self._next_group()
                self._write_group(group)
        except BaseException as error:
            self._halt(error, at_once=True)

    def _next_group(self) -> tuple[list[_Decoded], bool]:
        """What waits, at least one unless it is the end; and whether more may come."""
        group = []
        waiting = self.decoded.get()
        try:
            while waiting is not None:
                group.append(waiting)
                if len(group) == _GROUP:
                    return group, True
                waiting = self.decoded.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _write_group(self, group: list[_Decoded]) -> None:
        written: list[tuple[_Entry, OutputFile]] = []
        group.reverse()
        while group:  # a waveform is let go as soon as it is written
            entry, ticket = group.pop()
            if (file := self._begin(entry, ticket)) is not None:
                written.append((entry, file))
        written = [(entry, file) for entry, file in written if self._succeeds(entry, file.flush)]
        written = [(entry, file) for entry, file in written if self._succeeds(entry, file.publish)]
        for folder in {file.folder for _, file in written if file.folder is not None}:
            try:
                flush_folder(folder)
            except OSError as error:
                for entry in [entry for entry, file in written if file.folder == folder]:
                    self._fail(entry, error)
                written = [(entry, file) for entry, file in written if file.folder != folder]
        for entry, _ in written:
            elapsed = time.perf_counter() - entry.started
            done = JobResult(entry.job, "done", entry.samples, elapsed, None, entry.clipped, entry.warnings)
            self._end(entry, done)

    def _begin(self, entry: _Entry, ticket: Future[FloatArray]) -> OutputFile | None:
        """Writes a file that has no name yet; ``None`` where there is none, and the job has ended."""
        try:
            waveform = ticket.result()
        except CancelledError:
            self._end(entry, None)
            return None
        except Exception as error:
            self._end(entry, failure(entry.job, error, entry.warnings))
            return None
        if self._full:
            self._end(entry, None)
            return None
        output, floating = entry.job.output, self._options.floating
        try:
            file = begin_wav(output, waveform, self._vocoder.sample_rate, floating=floating)
        except Exception as error:
            self._fail(entry, error)
            return None
        entry.samples = len(waveform)
        entry.clipped = 0 if floating else clipped_samples(waveform)
        if entry.clipped:
            self._clipping_warnings += 1
            level = logging.WARNING if self._clipping_warnings <= _CLIPPING_WARNINGS else logging.DEBUG
            logger.log(level, "%s", clipping(output, entry.clipped, entry.samples))
        return file

    def _succeeds(self, entry: _Entry, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:
            self._fail(entry, error)
            return False
        return True
