"""Runs the jobs of ``vocode`` in this process or on Ray, and reports their results."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.files.standard_streams import is_input_stream, read_input_stream
from wavernn_trt.runtime.jobs.pipeline import run_jobs
from wavernn_trt.runtime.jobs.plan import Job, JobPlan
from wavernn_trt.runtime.jobs.report import JobReport, result_row
from wavernn_trt.runtime.jobs.result import JobOptions, JobsStopped, Progress, Stop
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import DEFAULT_BATCH, load_model, shipped_voice
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts import notice
from wavernn_trt.scripts.interruption import Interrupted, interruptible
from wavernn_trt.scripts.progress import job_bar
from wavernn_trt.scripts.vocode_report import JsonDocument, Outcome, Start, Totals

_LARGEST_BATCH = 32
"""Largest default batch. A larger one takes more memory, and is hardly faster on a CPU."""


@dataclass(frozen=True)
class Decoder:
    """Decodes the jobs: a vocoder in this process, or workers on Ray."""

    audio: AudioConfig
    model: Path
    start: Callable[[], AbstractContextManager[Start]]
    backend: str | None = None
    """``None`` on Ray, where each result has its own."""
    engine: str | None = None
    precision: str | None = None


def decoder_here(arguments: argparse.Namespace, plan: JobPlan, options: JobOptions) -> Decoder:
    """Loads a vocoder into this process.

    Raises:
        ValueError: as for `load_model`.
    """
    wanted = LoadOptions(arguments.backend, arguments.batch, arguments.threads, arguments.precision, arguments.cache)
    # The number of files, if neither the user nor the executor sets the batch.
    batch = arguments.batch or max(DEFAULT_BATCH, min(len(plan), _LARGEST_BATCH))
    vocoder = Vocoder(load_model(arguments.model, wanted), batch, SchedulerLimits(lanes=arguments.lanes))
    start = partial(_start_here, vocoder, plan, options)
    about = (vocoder.backend, vocoder.engine, vocoder.precision)
    return Decoder(vocoder.config.audio, vocoder.config.path, start, *about)


@contextmanager
def _start_here(vocoder: Vocoder, plan: JobPlan, options: JobOptions) -> Iterator[Start]:
    jobs = _with_streams_read(plan)

    def start(progress: Progress, stop: Stop) -> Generator[Outcome, None, None]:
        with closing(run_jobs(vocoder, jobs, options, progress, stop)) as results:
            for result in results:
                yield Outcome(result, vocoder.backend, vocoder.engine, vocoder.precision)

    yield start


def _with_streams_read(plan: JobPlan) -> Sequence[Job]:
    """Returns the jobs with the content of a stream. Read here, Ctrl-C interrupts the waiting for it."""
    if len(plan) != 1 or not is_input_stream(plan[0].input):
        return plan
    return [replace(plan[0], content=read_input_stream(plan[0].input))]


def decoder_on_ray(arguments: argparse.Namespace, jobs: JobPlan, options: JobOptions) -> Decoder:
    """Opens the model's settings only, so that a missing model is reported before any worker starts.

    Raises:
        ValueError: there is no such model.
    """
    from wavernn_trt.scripts.ray_pool import start_on_ray

    model = arguments.model or shipped_voice()
    torch = arguments.backend == "torch"  # which also takes checkpoints
    audio = load_model(model, LoadOptions("torch")).audio if torch else open_model_directory(model).audio
    return Decoder(audio, model, partial(start_on_ray, arguments, jobs, options))


def run_all(arguments: argparse.Namespace, decoder: Decoder, jobs: JobPlan, report: JobReport | None) -> int:
    """Runs the jobs and reports each result when it arrives; returns the exit code.

    Raises:
        VocoderError: no worker can start.
    """
    rate = decoder.audio.sample_rate
    about = {
        "backend": decoder.backend,
        "engine": decoder.engine,
        "precision": decoder.precision,
        "model": str(decoder.model),
        "sample_rate": rate,
    }
    totals = Totals(rate, decoder.backend, decoder.engine or decoder.precision)
    stopped: str | None = None
    with ExitStack() as stack:
        start = stack.enter_context(decoder.start())
        document = JsonDocument(sys.stdout, about) if arguments.json else None
        bar = job_bar(jobs, decoder.audio, hidden=arguments.quiet, overwrite=arguments.overwrite)
        stack.enter_context(bar)
        interruption = stack.enter_context(interruptible())
        try:
            with closing(start(bar, interruption.stop)) as outcomes:
                for outcome in outcomes:
                    result = outcome.result
                    totals.add(outcome)
                    row = result_row(result, rate)
                    if report is not None:
                        about = {"backend": outcome.backend, "engine": outcome.engine, "precision": outcome.precision}
                        report.add({**row, **about})
                    if document is not None:
                        document.add(row)
                    if result.status == "failed":
                        bar.notice(f"failed: {result.job.input}: {result.error}")
                    for warning in result.warnings:
                        bar.notice(f"warning: {result.job.input}: {warning}")
        except JobsStopped as error:
            stopped = str(error)
        except Interrupted:
            pass  # `interruption` has the signal
    if interruption.signal is not None:
        stopped = "interrupted" if interruption.signal == signal.SIGINT else "terminated"
    if document is not None:
        document.close(totals=totals.row(), stopped=stopped, left_out=jobs.left_out.row())
    if stopped is not None and interruption.signal is None:
        notice(f"error: {stopped}; then run the same command again: it continues where it stopped")
    if not arguments.quiet:
        left = len(jobs) - totals.counts.total()
        notice(totals.summary(left, *(["on Ray"] if arguments.ray else [])))
        if jobs.left_out:
            notice(jobs.left_out.summary())
    if interruption.signal is not None:
        notice(f"{stopped}; finished files are kept, and a rerun continues after them")
        return 128 + interruption.signal
    return 1 if totals.counts["failed"] or stopped is not None else 0
