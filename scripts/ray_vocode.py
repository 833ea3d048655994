"""Batch vocoding on a Ray cluster: ``python -m wavernn_trt.scripts.ray_vocode``, the same jobs on many workers."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import (
    add_mel_from,
    check_mel_from,
    mel_from_differences,
    path,
    positive_integer,
    positive_number,
    seed,
)
from wavernn_trt.scripts.cli import Parser

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig
    from wavernn_trt.runtime.jobs.plan import JobPlan
    from wavernn_trt.runtime.jobs.report import JobReport
    from wavernn_trt.scripts.ray_pool import Spoken

DESCRIPTION = """\
Vocodes many files on a Ray cluster, or on several workers of this machine: inputs,
outputs, seeds and manifests are those of 'wavernn-trt vocode', and so is every byte of
what is written. Each worker loads the model once.
"""
EPILOG = """\
Inputs, outputs and the model have to be where every machine of the cluster sees them
under the same path. Outputs that are there are skipped, so that an interrupted run goes
on where it stopped; jobs of a worker that dies are given to another. Each worker reads
ahead, writes behind and decodes --batch utterances together.

examples:
  python -m wavernn_trt.scripts.ray_vocode mels/ -o speech/ --actors 4
  python -m wavernn_trt.scripts.ray_vocode list.jsonl -o /nfs/speech --address auto --report report.jsonl
  python -m wavernn_trt.scripts.ray_vocode mels/ -o speech/ --backend tensorrt-rtx --gpus-per-actor 1

exit codes: 0 all done; 1 some files failed, or the run had to stop; 2 wrong usage;
130 interrupted (Ctrl-C); 143 terminated (SIGTERM)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; a mistake of the user's shows no traceback."""
    arguments = _parser().parse_args(argv)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"{PROGRAM}: error: {named}{error.strerror or error}", file=sys.stderr)
    return 2


def run(arguments: argparse.Namespace) -> int:
    """Vocodes; returns 0, 1 if some files failed or no more could be written, or 130 or 143 after a signal.

    Raises:
        ValueError: a mistake in the arguments, or no worker can start.
        OSError: the report cannot be written.
    """
    from wavernn_trt.runtime.decoding.folding import plan_folds
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.output_files import remove_leftovers
    from wavernn_trt.runtime.jobs.output_folder import locked_folder
    from wavernn_trt.runtime.jobs.plan import is_file_name, plan_jobs
    from wavernn_trt.runtime.jobs.report import JobReport, check_report, model_fingerprint
    from wavernn_trt.runtime.vocoder import shipped_voice

    if arguments.overlap is not None and arguments.fold is None:
        raise VocoderError("--overlap only has a meaning together with --fold")
    plan_folds(1, arguments.fold, arguments.overlap)
    if arguments.report is not None:
        check_report(arguments.report, arguments.inputs)
    jobs = plan_jobs(arguments.inputs, arguments.output, arguments.seed)
    model = arguments.model or shipped_voice()
    audio = _audio(model, arguments.backend)
    check_mel_from(arguments.mel_from, (job.input for job in jobs))
    if (different := mel_from_differences(arguments.mel_from, audio)) is not None:
        print(f"{PROGRAM}: {different}", file=sys.stderr)
    with ExitStack() as stack:
        report = None
        if arguments.report is not None:
            report = JobReport(arguments.report, {"model_sha256": model_fingerprint(model)})
            stack.enter_context(report)
        if not is_file_name(arguments.output):
            stack.enter_context(locked_folder(arguments.output))
        removed = remove_leftovers(jobs.output_folders())
        if removed and not arguments.quiet:
            print(f"{PROGRAM}: removed {removed} unfinished files of a run that was killed", file=sys.stderr)
        stack.callback(remove_leftovers, jobs.output_folders())  # of workers that died
        return _vocode(arguments, jobs, audio, report)


def _vocode(arguments: argparse.Namespace, jobs: JobPlan, audio: AudioConfig, report: JobReport | None) -> int:
    from wavernn_trt.runtime.jobs.report import result_row
    from wavernn_trt.runtime.jobs.result import JobsStopped
    from wavernn_trt.scripts.progress import job_bar
    from wavernn_trt.scripts.vocode_report import Totals

    totals = Totals(audio.sample_rate)
    by: dict[str, None] = {}  # in the order of appearance
    stopped: str | None = None
    number: int | None = None  # of a signal
    with ExitStack() as stack:
        try:
            results = stack.enter_context(_speaking(arguments, jobs))
            bar = job_bar(jobs, audio, hidden=arguments.quiet, overwrite=arguments.overwrite)
            stack.callback(bar.close)
            for spoken in results:
                result = spoken.result
                totals.add(result)
                by |= dict.fromkeys(filter(None, (spoken.backend, spoken.engine)))
                if result.status == "done":
                    bar.decoded(result.samples)
                elif result.status == "failed":
                    bar.say(f"{PROGRAM}: failed: {result.job.input}: {result.error}")
                for warning in result.warnings:
                    bar.say(f"{PROGRAM}: warning: {result.job.input}: {warning}")
                bar.closed(result)
                if report is not None:
                    own = {"backend": spoken.backend, "engine": spoken.engine}
                    report.add({**result_row(result, audio.sample_rate), **own})
        except JobsStopped as error:
            stopped = str(error)
        except _Terminated:
            number = signal.SIGTERM
        except KeyboardInterrupt:
            number = signal.SIGINT
    if stopped is not None:
        print(f"{PROGRAM}: error: {stopped}; then run this again, and it goes on where it stopped", file=sys.stderr)
    if not arguments.quiet:
        print(totals.summary(len(jobs) - totals.counts.total(), *by, "on Ray"), file=sys.stderr)
        if jobs.left_out:
            print(f"{PROGRAM}: {jobs.left_out.summary()}", file=sys.stderr)
    if number is not None:
        what = "interrupted" if number == signal.SIGINT else "terminated"
        print(f"{PROGRAM}: {what}; finished files are kept, and a rerun goes on behind them", file=sys.stderr)
        return 128 + number
    return 1 if totals.counts["failed"] or stopped is not None else 0


@contextmanager
def _speaking(arguments: argparse.Namespace, jobs: JobPlan) -> Iterator[Iterable[Spoken]]:
    """What comes of the jobs, as it comes. Those that are done already need no worker; where all are, none starts."""
    from wavernn_trt.runtime.files.output_files import is_finished
    from wavernn_trt.runtime.jobs.result import JobOptions, JobResult
    from wavernn_trt.scripts.ray_actor import Loading
    from wavernn_trt.scripts.ray_pool import Pool, Spoken, open_pool

    there: list[int] = []
    todo: list[int] = []
    for number, job in enumerate(jobs):
        (todo if arguments.overwrite or not is_finished(job.output) else there).append(number)
    skipped = (Spoken(JobResult(jobs[number], "skipped")) for number in there)
    if not todo:
        yield skipped
        return
    loading = Loading(
        _absolute(arguments.model),
        arguments.backend,
        arguments.batch,
        arguments.threads or max(1, int(arguments.cpus_per_actor)),
        arguments.precision,
        _absolute(arguments.cache),
    )
    options = JobOptions(arguments.fold, arguments.overlap, arguments.floating, arguments.overwrite, arguments.mel_from)
    pool = Pool(arguments.address, arguments.actors, arguments.cpus_per_actor, arguments.gpus_per_actor)
    with open_pool(pool, arguments.backend) as opened, _terminable():
        if not arguments.quiet:
            print(f"{PROGRAM}: {len(todo)} files to speak, workers on Ray: {opened.actors}", file=sys.stderr)
        yield chain(skipped, opened.run(jobs, todo, loading, options))


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Takes SIGTERM like Ctrl-C, instead of Ray, which ends the process there and then."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _audio(model: Path, backend: str) -> AudioConfig:
    """The model's audio settings, which show that there is one before any worker starts.

    Raises:
        ValueError: there is none.
    """
    if backend == "torch":
        from wavernn_trt.runtime.load_options import LoadOptions
        from wavernn_trt.runtime.loaded_model import load_model

        return load_model(model, LoadOptions(backend)).audio  # may be a checkpoint
    from wavernn_trt.export.model_directory import open_model_directory

    return open_model_directory(model).audio


def _absolute(given: Path | None) -> Path | None:
    return None if given is None else given.absolute()


def _parser() -> Parser:
    parser = Parser(
        prog="python -m wavernn_trt.scripts.ray_vocode",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help="as for 'wavernn-trt vocode'")
    parser.add_argument("-o", "--output", required=True, type=path, metavar="OUT", help="a folder, or a .wav file")
    workers = parser.add_argument_group("workers")
    workers.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS"),
        metavar="ADDRESS",
        help="of a cluster, or 'auto' for one that this machine belongs to (default: RAY_ADDRESS if it is set, else "
        "workers of its own on this machine)",
    )
    workers.add_argument(
        "--actors", type=positive_integer, metavar="N", help="workers (default: as many as there is room for)"
    )
    workers.add_argument(
        "--cpus-per-actor",
        type=positive_number,
        default=1.0,
        metavar="N",
        help="CPU cores that each takes (default: 1)",
    )
    workers.add_argument(
        "--gpus-per-actor",
        type=_gpus,
        metavar="N",
        help="GPUs that each takes, 0.5 for two workers on one (default: 1 where there are GPUs, unless the backend is "
        "onnxruntime or torch)",
    )
    workers.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads of each (default: its CPU cores)"
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the voice that is shipped)")
    model.add_argument(
        "--backend", default="auto", metavar="NAME", help="as for 'wavernn-trt vocode' (default: %(default)s)"
    )
    model.add_argument(
        "--precision",
        choices=WEIGHT_PRECISIONS,
        help="of the engine (default: of the one used last; cuda: fp8 for a directory all in it, else what suits)",
    )
    model.add_argument("--cache", type=path, metavar="CACHE", help="folder of plans (default: the user's cache)")
    speech = parser.add_argument_group("speech")
    add_mel_from(speech)
    speech.add_argument("--seed", type=seed, default=0, metavar="N", help="of the random numbers (default: 0)")
    speech.add_argument(
        "--batch", type=positive_integer, metavar="N", help="utterances that each worker decodes together (default: 8)"
    )
    speech.add_argument("--fold", type=positive_integer, metavar="N", help="cut utterances into folds of N samples")
    speech.add_argument("--overlap", type=positive_integer, metavar="N", help="samples of a crossfade (default: 550)")
    files = parser.add_argument_group("files")
    files.add_argument("--float", action="store_true", dest="floating", help="32-bit float WAV files, not 16-bit")
    files.add_argument("--overwrite", action="store_true", help="make outputs anew that are there already")
    files.add_argument(
        "--report",
        type=path,
        metavar="FILE.jsonl",
        help="append a JSON line for each file, as 'wavernn-trt vocode' does",
    )
    files.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary; errors are still shown")
    return parser


def _gpus(text: str) -> float:
    return 0.0 if text == "0" else positive_number(text)


if __name__ == "__main__":
    # Under its own name: workers find what they are sent in modules that they can import.
    from wavernn_trt.scripts.ray_vocode import main as entry

    sys.exit(entry())
