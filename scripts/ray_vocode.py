"""Batch vocoding on a Ray cluster: ``python -m wavernn_trt.scripts.ray_vocode``, the same jobs on many workers."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import path, positive_integer, positive_number, seed
from wavernn_trt.scripts.cli import Parser

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig
    from wavernn_trt.runtime.job_plan import Job
    from wavernn_trt.scripts.progress import ProgressBar
    from wavernn_trt.scripts.ray_pool import Spoken

DESCRIPTION = """\
Vocodes many files on a Ray cluster, or on several workers of this machine: inputs,
outputs, seeds and manifests are those of 'wavernn-trt vocode', and so is every byte of
what is written. Each worker loads the model once.
"""
EPILOG = """\
Inputs, outputs and the model have to be where every machine of the cluster sees them
under the same path. Outputs that are there are skipped, so that an interrupted job goes
on where it stopped; jobs of a worker that dies are given to another.

examples:
  python -m wavernn_trt.scripts.ray_vocode mels/ -o speech/ --actors 4
  python -m wavernn_trt.scripts.ray_vocode list.jsonl -o /nfs/speech --address auto --report report.jsonl
  python -m wavernn_trt.scripts.ray_vocode mels/ -o speech/ --backend tensorrt-rtx --gpus-per-actor 1

exit codes: 0 all done, 1 some files failed, 2 wrong usage, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; a mistake of the user's shows no traceback."""
    arguments = _parser().parse_args(argv)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; finished files are kept, and a rerun goes on behind them", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"{PROGRAM}: error: {named}{error.strerror or error}", file=sys.stderr)
    return 2


def run(arguments: argparse.Namespace) -> int:
    """Vocodes; returns 0, or 1 if some files failed.

    Raises:
        ValueError: a mistake in the arguments, or no worker can start.
        OSError: the report cannot be written.
    """
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.folding import plan_folds
    from wavernn_trt.runtime.job_plan import plan_jobs
    from wavernn_trt.runtime.output_files import remove_leftovers
    from wavernn_trt.runtime.output_folder import locked_folder
    from wavernn_trt.scripts.progress import ProgressBar

    if arguments.overlap is not None and arguments.fold is None:
        raise VocoderError("--overlap only has a meaning together with --fold")
    plan_folds(1, arguments.fold, arguments.overlap)
    jobs = plan_jobs(arguments.inputs, arguments.output, arguments.seed)
    audio = _audio(arguments.model, arguments.backend)
    started = time.perf_counter()
    with ExitStack() as stack:
        report = stack.enter_context(arguments.report.open("w", encoding="utf-8")) if arguments.report else None
        stack.enter_context(locked_folder(_folder(arguments.output)))
        remove_leftovers(jobs.output_folders())
        done: list[int] = []
        todo: list[int] = []
        for number, job in enumerate(jobs):
            (todo if arguments.overwrite or not os.path.isfile(job.output) else done).append(number)
        spoken = stack.enter_context(_speaking(arguments, jobs, todo))
        bar = ProgressBar(jobs, audio, hidden=arguments.quiet, overwrite=arguments.overwrite)
        try:
            summary = _collect(chain(_skipped(jobs, done), spoken), bar, report, audio.sample_rate)
        finally:
            bar.close()
    for failure in summary.failures:
        print(f"{PROGRAM}: failed: {failure}", file=sys.stderr)
    if not arguments.quiet:
        print(summary.line(time.perf_counter() - started), file=sys.stderr)
    return 1 if summary.counts["failed"] else 0


def _skipped(jobs: Sequence[Job], numbers: Iterable[int]) -> Iterator[Spoken]:
    from wavernn_trt.runtime.jobs import JobResult
    from wavernn_trt.scripts.ray_pool import Spoken

    for number in numbers:
        yield Spoken(JobResult(jobs[number], "skipped"))


@contextmanager
def _speaking(arguments: argparse.Namespace, jobs: Sequence[Job], numbers: Sequence[int]) -> Iterator[Iterable[Spoken]]:
    """What comes of the jobs, as it comes; where there are none, no worker is started."""
    from wavernn_trt.runtime.jobs import JobOptions
    from wavernn_trt.scripts.ray_actor import Loading
    from wavernn_trt.scripts.ray_pool import Pool, open_pool

    if not numbers:
        yield ()
        return
    loading = Loading(
        _absolute(arguments.model),
        arguments.backend,
        arguments.batch,
        arguments.threads or max(1, int(arguments.cpus_per_actor)),
        arguments.precision,
        _absolute(arguments.cache),
    )
    options = JobOptions(arguments.fold, arguments.overlap, arguments.floating, arguments.overwrite)
    pool = Pool(arguments.address, arguments.actors, arguments.cpus_per_actor, arguments.gpus_per_actor)
    with open_pool(pool, arguments.backend) as opened:
        if not arguments.quiet:
            print(f"{PROGRAM}: {len(numbers)} files to speak, workers on Ray: {opened.actors}", file=sys.stderr)
        yield opened.run(jobs, numbers, loading, options)


class _Summary:
    """What came of all jobs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self.failures: list[str] = []
        self.by: dict[str, None] = {}  # in the order of appearance

    def add(self, spoken: Spoken) -> None:
        self.counts[spoken.result.status] += 1
        self.seconds += spoken.result.samples / spoken.rate if spoken.rate else 0.0
        if spoken.result.status == "failed":
            self.failures.append(f"{spoken.result.job.input}: {spoken.result.error}")
        if spoken.backend:
            self.by[", ".join(filter(None, (spoken.backend, spoken.engine)))] = None

    def line(self, elapsed: float) -> str:
        counts = [f"{self.counts['done']} done"]
        counts += [f"{self.counts[status]} {status}" for status in ("skipped", "failed") if self.counts[status]]
        hint = " (outputs are there; --overwrite makes them anew)" if self.counts["skipped"] else ""
        spoken = f"; {self.seconds:.1f} s of speech in {elapsed:.1f} s"
        speed = f"; real-time factor {elapsed / self.seconds:.2f}" if self.seconds else ""
        by = f" ({'; '.join(self.by)}, on Ray)" if self.by else ""
        return f"{PROGRAM}: {', '.join(counts)}{hint}{spoken}{speed}{by}"


def _collect(spoken: Iterable[Spoken], bar: ProgressBar, report: TextIO | None, rate: int) -> _Summary:
    """Follows the jobs as they end."""
    summary = _Summary()
    for one in spoken:
        result = one.result
        summary.add(one)
        if result.status == "done":
            bar.decoded(result.samples)
        bar.closed(result)
        if report is not None:
            print(json.dumps(_line(one, one.rate or rate)), file=report, flush=True)
    return summary


def _line(spoken: Spoken, rate: int) -> dict[str, Any]:
    result = spoken.result
    seconds = result.samples / rate
    return {
        "input": str(result.job.input),
        "output": str(result.job.output),
        "status": result.status,
        "seed": result.job.seed,
        "seconds": seconds,
        "samples": result.samples,
        "sample_rate": rate,
        "rtf": round(result.elapsed / seconds, 4) if seconds else None,
        "error": result.error,
    }


def _audio(model: Path | None, backend: str) -> AudioConfig:
    """The model's audio settings, which show that there is one before any worker starts.

    Raises:
        ValueError: there is none.
    """
    from wavernn_trt.runtime.vocoder import shipped_voice

    found = shipped_voice() if model is None else model
    if backend == "torch":
        from wavernn_trt.runtime.executors.registry import open_model

        return open_model(found, backend).audio  # may be a checkpoint
    from wavernn_trt.export.model_directory import open_model_directory

    return open_model_directory(found).audio


def _folder(output: Path) -> Path:
    from wavernn_trt.runtime.job_plan import is_file_name

    return output.parent if is_file_name(output) else output


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
    model.add_argument("--precision", choices=PRECISIONS, help="of the engine (default: of the one used last)")
    model.add_argument("--cache", type=path, metavar="CACHE", help="folder of plans (default: the user's cache)")
    speech = parser.add_argument_group("speech")
    speech.add_argument("--seed", type=seed, default=0, metavar="N", help="of the random numbers (default: 0)")
    speech.add_argument(
        "--batch", type=positive_integer, metavar="N", help="utterances that each worker decodes together (default: 8)"
    )
    speech.add_argument("--fold", type=positive_integer, metavar="N", help="cut utterances into folds of N samples")
    speech.add_argument("--overlap", type=positive_integer, metavar="N", help="samples of a crossfade (default: 550)")
    files = parser.add_argument_group("files")
    files.add_argument("--float", action="store_true", dest="floating", help="32-bit float WAV files, not 16-bit")
    files.add_argument("--overwrite", action="store_true", help="make outputs anew that are there already")
    files.add_argument("--report", type=path, metavar="FILE", help="write a JSON line for each file as it ends")
    files.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary; errors are still shown")
    return parser


def _gpus(text: str) -> float:
    return 0.0 if text == "0" else positive_number(text)


if __name__ == "__main__":
    # Under its own name: workers find what they are sent in modules that they can import.
    from wavernn_trt.scripts.ray_vocode import main as entry

    sys.exit(entry())
