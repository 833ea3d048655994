"""The thread that reads ahead: it opens inputs, checks them, and hands them to the vocoder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.files.input_files import is_mel
from wavernn_trt.runtime.files.mel_file import holds_mel, read_mel
from wavernn_trt.runtime.files.output_files import is_finished, prepare_output
from wavernn_trt.runtime.files.recording import read_recording
from wavernn_trt.runtime.files.standard_streams import is_standard_output
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress, failure, stopping_reason
from wavernn_trt.runtime.jobs.state import Ended, Exhausted, JobState, UnderWay
from wavernn_trt.runtime.mel_comparison.conventions import convert
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder


class JobReader:
    """Takes jobs in their order.

    Longest first would leave fewer slots empty at the very end. But every header would have to be read before the first
    file is begun, neighbours on the disk would be torn apart, and one would not see from the outputs how far a run got.
    """

    def __init__(
        self, vocoder: Vocoder, jobs: Iterable[Job], options: JobOptions, progress: Progress, state: JobState
    ) -> None:
        """Takes what `run_jobs` was given."""
        self._vocoder = vocoder
        self._jobs = iter(jobs)
        self._options = options
        self._progress = progress
        self._state = state
        self._proved: Path | None = None  # the folder that the last output was proved to go into

    def run(self) -> None:
        """Reads until the jobs or the run end; what a thread of its own does."""
        while self._state.room.enter():
            job = next(self._jobs, None)
            if job is None:
                self._state.messages.put(Exhausted())
                return
            self._take(job)

    def _take(self, job: Job) -> None:
        if not self._options.overwrite and is_finished(job.output):
            self._state.messages.put(Ended(JobResult(job, "skipped")))
            return
        started = time.perf_counter()
        try:
            request, warnings = self._open(job)
            self._prepare(job.output)
        except Exception as error:  # whatever is wrong with one file, the others can still be spoken
            self._fail(job, error)
            return
        one = UnderWay(job, started, self._size(request), warnings)
        if not self._state.room.grow(one.size):
            return
        try:
            ticket = self._vocoder.submit(request, progress=self._progress.decoded)
        except ExecutorError as error:
            self._state.halt(JobsStopped(str(error)))
        except Exception as error:
            self._fail(job, error, one.size)
        else:
            self._state.follow(one, ticket)

    def _open(self, job: Job) -> tuple[Request, tuple[str, ...]]:
        """The request, and what is wrong with the input although it could be read."""
        fold, overlap = self._options.fold, self._options.overlap
        if job.content == b"":
            raise VocoderError(f"{job.input}: found nothing, expected a recording or a mel")
        if is_mel(job.input) if job.content is None else holds_mel(job.content):
            mel, audio = read_mel(job.input, job.content), self._vocoder.config.audio
            if self._options.mel_from is not None:
                mel = convert(mel, self._options.mel_from, audio)
            warnings = tuple(mel_warnings(mel, audio))
            return Request(mel, job.seed, None, fold, overlap, job.sample_rate, warn=False), warnings
        recording = read_recording(job.input, job.content)
        mel = self._vocoder.mel(recording.samples, recording.sample_rate)
        return Request(mel, job.seed, None, fold, overlap, warn=False), recording.warnings

    def _prepare(self, output: Path) -> None:
        if is_standard_output(output):
            return
        prepare_output(output, prove=output.parent != self._proved)
        self._proved = output.parent

    def _fail(self, job: Job, error: Exception, size: int = 0) -> None:
        self._state.messages.put(Ended(failure(job, error), size))
        if (reason := stopping_reason(error)) is not None:
            self._state.full = True
            self._state.halt(JobsStopped(reason))

    def _size(self, request: Request) -> int:
        """Bytes of a mel and of its waveform."""
        mel = np.asarray(request.mel)
        frames = mel.shape[-1] if mel.ndim else 0
        return mel.nbytes + frames * self._vocoder.config.audio.hop_length * np.dtype(np.float32).itemsize
