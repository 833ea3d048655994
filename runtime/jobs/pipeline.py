"""Bounded pipeline for jobs: a thread reads inputs ahead, the vocoder decodes, a thread writes outputs."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.files.audio import begin_wav, clipped_samples, clipping_text
from wavernn_trt.runtime.files.input_files import is_mel
from wavernn_trt.runtime.files.long_wav import LongWav
from wavernn_trt.runtime.files.mel_file import holds_mel, read_mel
from wavernn_trt.runtime.files.output_files import OutputFile, flush_folder, is_finished, prepare_output
from wavernn_trt.runtime.files.recording import read_recording
from wavernn_trt.runtime.files.standard_streams import is_standard_output
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress, Stop, failure, stopping_reason
from wavernn_trt.runtime.mel_comparison.conventions import convert
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.vocoder import Vocoder

logger = logging.getLogger(__name__)

_FILES_PER_SLOT = 4
"""Files in flight per slot: one each to read, condition, decode and write, so that neither a slow disk nor a long file
among short ones leaves a slot empty."""
_MIN_FILES = 16
"""Lower limit of the files in flight: with one slot, several bad or finished files may follow each other."""
_MAX_BYTES = 2**30
"""Bytes of mels and waveforms in flight. A larger file is vocoded alone. Not counted: the file being read, whose length
is not yet known, and conditioning, which `SchedulerLimits` bounds."""
_MAX_GROUP = 32
"""Files that are flushed together at most: larger groups cost less per file, but keep more files open."""
_LONG_SECONDS = 60.0
"""Speech from which a file is written while it is decoded."""
_CLIPPING_WARNINGS = 3
"""Files whose clipped samples are logged as warnings; further ones are logged for debugging only."""
_JOIN_SECONDS = 5.0
"""Time that a stopped run waits for its reader, which may be reading an hour of speech."""


def run_jobs(
    vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress, stop: Stop | None = None
) -> Generator[JobResult, None, None]:
    """Runs jobs concurrently, up to the vocoder's batch size.

    The files in flight are bounded (`InFlightLimit`); memory does not grow with the number of jobs. Closing the
    generator ends the run.

    Args:
        vocoder: may be shared by several runs.
        jobs: from `plan_jobs`; a generator is advanced in another thread, as fast as files can enter the pipeline.
        options: apply to all jobs.
        progress: callbacks.
        stop: ends the run early.

    Yields:
        A result for each job, in the order in which they end. An output is on the disk before its result is yielded.

    Raises:
        JobsStopped: no further output can be written, or the executor failed for good; raised after the results of all
            jobs that ended. A job without a result has no output and can be run again.
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
        pipeline.discard_decoded()
        reader.join(_JOIN_SECONDS)


class InFlightLimit:
    """Bounds the files between reading and the result, and the bytes of their mels and waveforms."""

    def __init__(self, slots: int) -> None:
        self.files = max(_MIN_FILES, _FILES_PER_SLOT * slots)
        """Maximum number of files in flight."""
        self._changed = threading.Condition()
        self._taken = 0
        self._bytes = 0
        self._closed = False

    def enter(self) -> bool:
        """Waits until another file may enter, and counts it; returns ``False`` once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._taken < self.files)
            self._taken += 1
            return not self._closed

    def grow(self, size: int) -> bool:
        """Waits until a file's bytes fit, and counts them; returns ``False`` once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._bytes or self._bytes + size <= _MAX_BYTES)
            self._bytes += size
            return not self._closed

    def leave(self, size: int) -> None:
        """Releases a file and its bytes."""
        with self._changed:
            self._taken -= 1
            self._bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Lets no further file enter, and wakes all waiting threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(eq=False)
class _Entry:
    """A job in flight."""

    job: Job
    started: float
    """Start of reading, on the clock of `time.perf_counter`."""
    size: int = 0
    """Bytes counted in the `InFlightLimit`."""
    warnings: tuple[str, ...] = ()
    """As in `JobResult`, like the fields below."""
    samples: int = 0
    clipped: int = 0
    long_wav: LongWav | None = None
    """Takes the waveform of a long utterance while it is decoded."""

    def discard(self) -> None:
        """Removes what is written of a long utterance that has no result."""
        if self.long_wav is not None:
            self.long_wav.file.discard()


_Decoded = tuple[_Entry, Future[FloatArray]]


@dataclass(frozen=True)
class Ended:
    """Message: a job has left the pipeline."""

    result: JobResult | None
    """``None`` if the job is left for another run."""
    size: int
    submitted: bool
    """Whether the job was submitted to the vocoder."""


@dataclass(frozen=True)
class Halted:
    """Message: the run ends early."""

    error: BaseException | None = None
    """Raised when the jobs in flight have ended."""
    at_once: bool = False
    """Whether to raise the error immediately, because jobs in flight cannot end any more."""


class Pipeline:
    """The three stages of a run, and the state that their threads share; arguments as for `run_jobs`."""

    def __init__(self, vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress) -> None:
        self.limit = InFlightLimit(vocoder.statistics().slots)
        self.messages: queue.SimpleQueue[Ended | Halted | None] = queue.SimpleQueue()
        """Read by `results`; ``None``: all jobs were read."""
        self.decoded: queue.SimpleQueue[_Decoded | None] = queue.SimpleQueue()
        """Read by the writer; ``None`` ends it."""
        self._vocoder = vocoder
        # Jobs are not sorted by length. Longest first would leave fewer slots empty at the end of a run, but needs
        # every header in advance, reads the disk out of order, and outputs would not show how far a run got.
        self._jobs = iter(jobs)
        self._options = options
        self._progress = progress
        self._checked_folder: Path | None = None  # folder of the last output, known to be writable
        self._clipping_warnings = 0
        self._lock = threading.Lock()
        self._tickets: dict[_Entry, Ticket] = {}
        self._submitted = 0  # final once the run is stopped
        self._stopped = False  # no further job is submitted
        self._full = False  # no further output can be written

    # Results: in the caller's thread.

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
            elif message is None:
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
        """Submits no further job, and cancels those that are not decoded."""
        with self._lock:
            self._stopped = True
            tickets = list(self._tickets.values())
        self.limit.close()
        for ticket in tickets:
            ticket.cancel()

    def discard_decoded(self) -> None:
        """Removes what is written of decoded utterances that the writer did not take any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (waiting := self.decoded.get_nowait()) is not None:
                    waiting[0].discard()

    def _halt(self, error: BaseException, *, at_once: bool = False) -> None:
        self.stop()
        self.messages.put(Halted(error, at_once))

    def _end(self, entry: _Entry, result: JobResult | None) -> None:
        with self._lock:
            submitted = self._tickets.pop(entry, None) is not None
        self.messages.put(Ended(result, entry.size, submitted))

    def _fail(self, entry: _Entry, error: Exception) -> None:
        if (reason := stopping_reason(error)) is not None:
            self._full = True
            self._halt(JobsStopped(reason))  # before the end of what may be the last job, and so of the run
        self._end(entry, failure(entry.job, error, entry.warnings))

    # First stage: the reader thread.

    def read(self) -> None:
        """Reads inputs in the order of the jobs and submits them, until the jobs or the run end."""
        try:
            while self.limit.enter():
                job = next(self._jobs, None)
                if job is None:
                    self.messages.put(None)
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
            request, entry.warnings = _read_request(self._vocoder, job, self._options)
            self._prepare(job.output)
            size = _request_bytes(self._vocoder, request)
            if not self.limit.grow(size):
                return
            entry.size = size
            entry.long_wav = self._begin_long_wav(job.output, request)
            ticket = self._vocoder.submit(request, sink=entry.long_wav, progress=self._progress.decoded)
        except BaseException as error:
            if entry.long_wav is not None:
                entry.long_wav.finish(error)
            if isinstance(error, ExecutorError):
                self._halt(JobsStopped(str(error)))
            elif isinstance(error, Exception):  # one bad file does not end the run
                self._fail(entry, error)
            else:
                raise
        else:
            self.follow(entry, ticket)

    def _begin_long_wav(self, output: Path, request: Request) -> LongWav | None:
        """Opens the file of a long utterance; ``None`` if the whole waveform is needed at once, or it is short."""
        samples = np.shape(request.mel)[-1] * self._vocoder.config.audio.hop_length
        if request.fold is not None or self._options.floating or is_standard_output(output):
            return None
        if samples < _LONG_SECONDS * self._vocoder.sample_rate or not LongWav.fits(samples):
            return None
        return LongWav(output, samples, self._vocoder.sample_rate)

    def _prepare(self, output: Path) -> None:
        if is_standard_output(output):
            return
        prepare_output(output, prove=output.parent != self._checked_folder)
        self._checked_folder = output.parent

    # Second stage: the vocoder's threads.

    def follow(self, entry: _Entry, ticket: Ticket) -> None:
        """Counts a job as submitted, and queues it for the writer when it is decoded."""
        with self._lock:
            follows = not self._stopped
            if follows:
                self._submitted += 1
                self._tickets[entry] = ticket
        if follows:
            ticket.add_done_callback(lambda done: self.decoded.put((entry, done)))
        else:
            ticket.cancel()
            ticket.add_done_callback(lambda _: entry.discard())

    # Third stage: the writer thread.

    def write(self) -> None:
        """Writes decoded waveforms until the queue yields ``None``."""
        try:
            more = True
            while more:
                group, more = self._next_group()
                self._write_group(group)
        except BaseException as error:
            self._halt(error, at_once=True)

    def _next_group(self) -> tuple[list[_Decoded], bool]:
        """Waits for decoded jobs; returns them, and whether more may follow."""
        group = []
        waiting = self.decoded.get()
        try:
            while waiting is not None:
                group.append(waiting)
                if len(group) == _MAX_GROUP:
                    return group, True
                waiting = self.decoded.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _write_group(self, group: list[_Decoded]) -> None:
        written: list[tuple[_Entry, OutputFile]] = []
        group.reverse()
        while group:  # popped, so that each waveform is freed as soon as it is written
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
        """Writes the waveform to an unpublished file; ``None`` if that failed and the job has ended."""
        try:
            waveform = ticket.result()
        except CancelledError:
            entry.discard()  # the ticket may be cancelled after the last sample was written
            self._end(entry, None)
            return None
        except Exception as error:  # of the decoder, or of the disk that `LongWav` writes to
            self._fail(entry, error)
            return None
        output, floating, long_wav = entry.job.output, self._options.floating, entry.long_wav
        if self._full:
            entry.discard()
            self._end(entry, None)
            return None
        file: OutputFile
        if long_wav is not None:
            file, entry.samples, entry.clipped = long_wav.file, long_wav.samples, long_wav.clipped
        else:
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
            logger.log(level, "%s", clipping_text(output, entry.clipped, entry.samples))
        return file

    def _succeeds(self, entry: _Entry, step: Callable[[], None]) -> bool:
        try:
            step()
        except Exception as error:
            self._fail(entry, error)
            return False
        return True


def _read_request(vocoder: Vocoder, job: Job, options: JobOptions) -> tuple[Request, tuple[str, ...]]:
    """Reads a job's mel, or its recording and computes the mel.

    Returns:
        The request, and the faults of the input that did not prevent reading it.

    Raises:
        ValueError: the input is not usable.
        OSError: the input cannot be read.
    """
    if job.content == b"":
        raise VocoderError(f"{job.input}: found nothing, expected a recording or a mel")
    if is_mel(job.input) if job.content is None else holds_mel(job.content):
        mel, audio = read_mel(job.input, job.content), vocoder.config.audio
        if options.mel_from is not None:
            mel = convert(mel, options.mel_from, audio)
        warnings = tuple(mel_warnings(mel, audio))
        return Request(mel, job.seed, None, options.fold, options.overlap, job.sample_rate, warn=False), warnings
    recording = read_recording(job.input, job.content)
    mel = vocoder.mel(recording.samples, recording.sample_rate)
    return Request(mel, job.seed, None, options.fold, options.overlap, warn=False), recording.warnings


def _request_bytes(vocoder: Vocoder, request: Request) -> int:
    """Returns the bytes of a request's mel and of its waveform."""
    mel = np.asarray(request.mel)
    frames = mel.shape[-1] if mel.ndim else 0
    return mel.nbytes + frames * vocoder.config.audio.hop_length * np.dtype(np.float32).itemsize
