"""The thread that writes behind: what is decoded becomes files, which are on the disk before anyone is told of them."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass

from wavernn_trt.runtime.files.audio import begin_wav, clipped_samples, clipping
from wavernn_trt.runtime.files.output_files import OutputFile, flush_folder
from wavernn_trt.runtime.jobs.result import JobResult, JobsStopped, failure, stopping_reason
from wavernn_trt.runtime.jobs.state import JobState, UnderWay
from wavernn_trt.runtime.scheduling.ticket import Ticket

logger = logging.getLogger(__name__)

_GROUP = 32
"""Files that are flushed together, where so many wait: the more, the less each costs. Their waveforms are kept no
longer; so many files are open."""


_WARNINGS = 3
"""Files of which it is said, one by one, that samples were clipped; of thousands of files hundreds may have one."""


@dataclass(frozen=True)
class _Written:
    """A file that has no name yet, or has it already."""

    one: UnderWay
    file: OutputFile
    samples: int
    clipped: int


class JobWriter:
    """Writes what the vocoder yields."""

    def __init__(self, state: JobState, sample_rate: int, *, floating: bool) -> None:
        """Takes what the files have in common."""
        self._state = state
        self._sample_rate = sample_rate
        self._floating = floating
        self._warnings = 0

    def run(self) -> None:
        """Writes until it is told to end; what a thread of its own does."""
        going_on = True
        while going_on:
            group, going_on = self._next_group()
            self._write(group)

    def _next_group(self) -> tuple[list[tuple[UnderWay, Ticket]], bool]:
        """What waits, at least one unless it is the end; and whether more may come."""
        group = []
        waiting = self._state.decoded.get()
        try:
            while waiting is not None:
                group.append(waiting)
                if len(group) == _GROUP:
                    return group, True
                waiting = self._state.decoded.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _write(self, group: list[tuple[UnderWay, Ticket]]) -> None:
        written = []
        group.reverse()
        while group:
            begun = self._begin(*group.pop())
            if begun is not None:
                written.append(begun)
        written = [each for each in written if self._succeeds(each, each.file.flush)]
        written = [each for each in written if self._succeeds(each, each.file.publish)]
        for folder in {each.file.folder for each in written}:
            if folder is None:
                continue
            inside = [each for each in written if each.file.folder == folder]
            try:
                flush_folder(folder)
            except OSError as error:
                written = [each for each in written if each not in inside]
                for each in inside:
                    self._fail(each.one, error)
        for each in written:
            elapsed = time.perf_counter() - each.one.started
            self._state.ended(each.one, self._done(each, elapsed))

    def _done(self, each: _Written, elapsed: float) -> JobResult:
        return JobResult(each.one.job, "done", each.samples, elapsed, None, each.clipped, each.one.warnings)

    def _begin(self, one: UnderWay, ticket: Ticket) -> _Written | None:
        try:
            waveform = ticket.result()
        except CancelledError:
            self._state.ended(one, None)
            return None
        except Exception as error:
            self._state.ended(one, failure(one.job, error, one.warnings))
            return None
        if self._state.full:
            self._state.ended(one, None)
            return None
        try:
            file = begin_wav(one.job.output, waveform, self._sample_rate, floating=self._floating)
        except Exception as error:
            self._fail(one, error)
            return None
        clipped = 0 if self._floating else clipped_samples(waveform)
        if clipped:
            self._warnings += 1
            level = logging.WARNING if self._warnings <= _WARNINGS else logging.DEBUG
            logger.log(level, "%s", clipping(one.job.output, clipped, len(waveform)))
        return _Written(one, file, len(waveform), clipped)

    def _succeeds(self, written: _Written, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:
            self._fail(written.one, error)
            return False
        return True

    def _fail(self, one: UnderWay, error: Exception) -> None:
        self._state.ended(one, failure(one.job, error, one.warnings))
        if (reason := stopping_reason(error)) is not None:
            self._state.full = True
            self._state.halt(JobsStopped(reason))
