"""``wavernn-trt vocode``: recordings and mel spectrograms to speech."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import path, positive_integer, seed

if TYPE_CHECKING:
    from wavernn_trt.runtime.jobs import JobResult
    from wavernn_trt.runtime.vocoder import Vocoder

DESCRIPTION = """\
Speaks mel spectrograms with a WaveRNN vocoder. Recordings are analysed first and said
again in the model's voice and at its sample rate (copy synthesis).
"""
EPILOG = """\
inputs:
  speech.wav .flac .ogg  a recording, of any sample rate and number of channels
  mel.npy                a mel spectrogram [n_mels, frames], floating-point, in the model's
                         range, as numpy.save writes it
  a folder               every such file in it, recursively; its structure is kept
  list.jsonl             a manifest: a line {"input": "a.wav", "output": "b.wav", "seed": 1}
                         for each file; all but "input" may be left out

A job that was interrupted goes on where it stopped: outputs that are there are skipped,
unless --overwrite is given. The same input and seed give the same waveform, whatever is
vocoded beside it.

examples:
  wavernn-trt vocode speech.flac -o copy.wav
  wavernn-trt vocode mels/ -o speech/ --model my-voice --batch 16
  wavernn-trt vocode chapter.npy -o chapter.wav --fold      faster for one long utterance
  wavernn-trt vocode list.jsonl -o speech/ --json > report.json
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = subparsers.add_parser(
        "vocode",
        help="speak mel spectrograms, or recordings again (copy synthesis)",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help="what to speak, see below")
    parser.add_argument(
        "-o", "--output", required=True, type=path, metavar="OUT", help="a .wav file for a single input, else a folder"
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the voice that is shipped)")
    model.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="onnxruntime, tensorrt or tensorrt-rtx (engines on a GPU, see 'wavernn-trt build'), torch (the slow "
        "reference) or auto: an engine where one fits this machine, else onnxruntime (default: %(default)s)",
    )
    model.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads (default: the backend's choice)"
    )
    model.add_argument(
        "--precision", choices=PRECISIONS, help="of the engine (default: that of the engine that was used last)"
    )
    model.add_argument("--cache", type=path, metavar="CACHE", help="folder of plans (default: the user's cache)")
    speech = parser.add_argument_group("speech")
    speech.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="of the random numbers, 0 to 2**64 - 1 (default: %(default)s)",
    )
    speech.add_argument(
        "--batch",
        type=positive_integer,
        metavar="N",
        help="utterances (or folds) decoded together; more is faster (default: 8; torch: 1; an engine: all it can)",
    )
    speech.add_argument(
        "--fold",
        nargs="?",
        type=_fold,
        const=11000,
        metavar="N",
        help="cut utterances into folds of N samples that are decoded together (default without N: 11000)",
    )
    speech.add_argument(
        "--overlap", type=positive_integer, metavar="N", help="samples over which folds are crossfaded (default: 550)"
    )
    files = parser.add_argument_group("files")
    files.add_argument("--float", action="store_true", dest="floating", help="32-bit float WAV files, not 16-bit")
    files.add_argument("--overwrite", action="store_true", help="make outputs anew that are there already")
    files.add_argument("--json", action="store_true", help="print one JSON object with every file's result on stdout")
    files.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bar and no summary; errors are still shown"
    )


def run(arguments: argparse.Namespace) -> int:
    """Vocodes; returns 0, or 1 if some files failed.

    Raises:
        ValueError: a mistake in the arguments, before any work is done.
    """
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.folding import plan_folds
    from wavernn_trt.runtime.job_plan import plan_jobs
    from wavernn_trt.runtime.jobs import JobOptions, run_jobs
    from wavernn_trt.runtime.vocoder import Vocoder
    from wavernn_trt.scripts.progress import ProgressBar

    if arguments.overlap is not None and arguments.fold is None:
        raise VocoderError("--overlap only has a meaning together with --fold")
    plan_folds(1, arguments.fold, arguments.overlap)  # so that a bad pair is one error, not one for each file
    jobs = plan_jobs(arguments.inputs, arguments.output, arguments.seed)
    vocoder = Vocoder.load(
        arguments.model,
        arguments.backend,
        batch=arguments.batch,
        threads=arguments.threads,
        precision=arguments.precision,
        cache=arguments.cache,
    )
    options = JobOptions(arguments.fold, arguments.overlap, arguments.floating, arguments.overwrite)
    started = time.perf_counter()
    bar = ProgressBar(jobs, vocoder.config.audio, hidden=arguments.quiet, overwrite=arguments.overwrite)
    try:
        results = list(run_jobs(vocoder, jobs, options, bar))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished files are kept, and a rerun goes on behind them") from None
    finally:
        bar.close()
    elapsed = time.perf_counter() - started
    report = _report(vocoder, results, elapsed)
    for result in results:
        if result.status == "failed":
            print(f"{PROGRAM}: failed: {result.job.input}: {result.error}", file=sys.stderr)
    if not arguments.quiet:
        print(_summary(report), file=sys.stderr)
    if arguments.json:
        print(json.dumps(report, indent=1))
    return 1 if report["totals"]["failed"] else 0


def _report(vocoder: Vocoder, results: Sequence[JobResult], elapsed: float) -> dict[str, Any]:
    rate = vocoder.sample_rate
    counts = Counter(result.status for result in results)
    spoken = sum(result.samples for result in results) / rate
    return {
        "backend": vocoder.backend,
        "engine": vocoder.engine,
        "model": str(vocoder.config.path),
        "sample_rate": rate,
        "files": [
            {
                "input": str(result.job.input),
                "output": str(result.job.output),
                "status": result.status,
                "seed": result.job.seed,
                "seconds": result.samples / rate,
                "samples": result.samples,
                "sample_rate": rate,
                "rtf": _real_time_factor(result.elapsed, result.samples / rate),
                "error": result.error,
            }
            for result in results
        ],
        "totals": {
            "done": counts["done"],
            "skipped": counts["skipped"],
            "failed": counts["failed"],
            "seconds": spoken,
            "elapsed": round(elapsed, 3),
            "rtf": _real_time_factor(elapsed, spoken),
        },
    }


def _summary(report: dict[str, Any]) -> str:
    totals = report["totals"]
    counts = [f"{totals['done']} done"]
    counts += [f"{totals[status]} {status}" for status in ("skipped", "failed") if totals[status]]
    speed = f"; real-time factor {totals['rtf']:.2f}" if totals["rtf"] is not None else ""
    hint = " (outputs are there; --overwrite makes them anew)" if totals["skipped"] else ""
    spoken = f"{totals['seconds']:.1f} s of speech in {totals['elapsed']:.1f} s"
    by = ", ".join(filter(None, (report["backend"], report["engine"])))
    return f"{PROGRAM}: {', '.join(counts)}{hint}; {spoken}{speed} ({by})"


def _real_time_factor(elapsed: float, seconds: float) -> float | None:
    return round(elapsed / seconds, 4) if seconds else None


def _fold(text: str) -> int:
    try:
        return positive_integer(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; put --fold behind the inputs, or write --fold=11000") from None
