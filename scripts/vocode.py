"""``wavernn-trt vocode``: recordings and mel spectrograms to speech."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import (
    add_mel_from,
    check_mel_from,
    mel_from_differences,
    path,
    positive_integer,
    seed,
)

if TYPE_CHECKING:
    from wavernn_trt.runtime.jobs.plan import Job, JobPlan
    from wavernn_trt.runtime.jobs.report import JobReport
    from wavernn_trt.runtime.vocoder import Vocoder

DESCRIPTION = """\
Speaks mel spectrograms with a WaveRNN vocoder. Recordings are analysed first and said
again in the model's voice and at its sample rate (copy synthesis).
"""
EPILOG = """\
inputs:
  speech.wav .flac .mp3  a recording, of any sample rate and number of channels, in any format
                         that libsndfile reads: also .ogg .opus .aiff .au .caf .w64 … (not
                         .m4a .aac .wma .webm: ffmpeg -i speech.m4a speech.wav)
  mel.npy .npz .pt       a mel spectrogram [n_mels, frames], floating-point, in the model's
                         range: numpy.save's, numpy.savez's with one array or one named mel,
                         a PyTorch tensor (needs PyTorch; nothing but tensors is loaded)
  a folder               every such file in it, recursively; its structure is kept. Other
                         files are left out, and counted at the end. Where a.wav and a.mp3
                         lie beside each other, they become a.wav.wav and a.mp3.wav
  list.jsonl             a manifest: a line {"input": "a.wav", "output": "b.wav", "seed": 1}
                         for each file; all but "input" may be left out
  - or /dev/stdin        a recording or a mel from a pipe, as the only input; -o - writes the
                         WAV file of a single input to standard output

A recording that is cut short, or whose header is that of a pipe, is read as far as the file
goes; a warning says what is missing. A mel that is cut short is an error.

The same input and seed give the same waveform, whatever is vocoded beside it.

many files:
  Files are read ahead and written behind, and memory does not grow with their number.
  Whatever ends a run (Ctrl-C, kill -9, a power failure, a full disk), the same command
  goes on where it stopped: outputs appear whole, and those that are there are skipped,
  unless --overwrite is given. One run at a time may write into a folder. A bad file
  stops nothing; a disk that is full, or an executor that fails again and again, does.
  --report keeps a line for each file as it ends, and later runs append to it.

mels of other projects:
  --mel-from tacotron2 (coqui, fatchord, librosa-power, …) converts the levels of such mels to
  the model's; 'wavernn-trt vocode --mel-from list' prints all names. Sample rate, hop length,
  mel filters, fmin, fmax and pre-emphasis cannot be converted: a warning names what usually
  differs. 'wavernn-trt inspect DIR --mel M --recording R' finds what a mel has otherwise.

examples:
  wavernn-trt vocode speech.flac -o copy.wav
  wavernn-trt vocode taco.npy -o speech.wav --mel-from tacotron2
  wavernn-trt vocode mels/ -o speech/ --model my-voice --batch 16
  wavernn-trt vocode chapter.npy -o chapter.wav --fold      faster for one long utterance
  wavernn-trt vocode mels/ -o speech/ --report speech.jsonl --quiet
  wavernn-trt vocode list.jsonl -o speech/ --json > report.json
  ffmpeg -i speech.m4a -f wav - | wavernn-trt vocode - -o - | aplay

exit codes: 0 all done; 1 some files failed, or the run had to stop; 2 wrong usage;
130 interrupted (Ctrl-C); 143 terminated (SIGTERM)
"""

MANY = 32
"""Utterances that are decoded together where there are as many. More take memory, and are hardly faster on a CPU."""


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
    parser.add_argument("inputs", nargs="+", type=_input, metavar="INPUT", help="what to speak, see below")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=_output,
        metavar="OUT",
        help="a .wav file or - (standard output) for a single input, else a folder",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the voice that is shipped)")
    model.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="onnxruntime, tensorrt or tensorrt-rtx (engines on a GPU, see 'wavernn-trt build'), cuda (a GPU without "
        "TensorRT), torch (the slow reference) or auto: an engine where one fits this machine, else cuda where that "
        "can run, else onnxruntime (default: %(default)s)",
    )
    model.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads (default: the backend's choice)"
    )
    model.add_argument(
        "--precision",
        choices=WEIGHT_PRECISIONS,
        help="on a GPU (default: that of the engine that was used last; cuda: fp16, or fp32 on older GPUs); fp8, of "
        "weights alone, for cuda only",
    )
    model.add_argument("--cache", type=path, metavar="CACHE", help="folder of plans (default: the user's cache)")
    model.add_argument(
        "--lanes",
        type=positive_integer,
        metavar="N",
        help="decode in N threads, each with its share of --batch (default: what suits the backend and the machine)",
    )
    speech = parser.add_argument_group("speech")
    add_mel_from(speech)
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
        help="utterances (or folds) decoded together; more is faster (default: as many as there are files, from 8 to "
        "32; torch: 1; cuda: 32; an engine: all it can)",
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
        "--report",
        type=path,
        metavar="FILE.jsonl",
        help="append a JSON line for each file as it ends: input, output, status, seed, seconds, rtf, error, model, …",
    )
    files.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bar and no summary; errors are still shown"
    )


def run(arguments: argparse.Namespace) -> int:
    """Vocodes; returns 0, 1 if some files failed or no more could be written, or 130 or 143 after a signal.

    Raises:
        ValueError: a mistake in the arguments, before any work is done.
        OSError: the report cannot be written.
    """
    from wavernn_trt.runtime import loaded_model
    from wavernn_trt.runtime.decoding.folding import plan_folds
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.output_files import remove_leftovers
    from wavernn_trt.runtime.files.standard_streams import check_standard_output, is_standard_output
    from wavernn_trt.runtime.jobs.output_folder import locked_folder
    from wavernn_trt.runtime.jobs.plan import is_file_name, plan_jobs
    from wavernn_trt.runtime.jobs.report import check_report
    from wavernn_trt.runtime.load_options import LoadOptions
    from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
    from wavernn_trt.runtime.vocoder import Vocoder

    if is_standard_output(arguments.output):
        if arguments.json:
            raise VocoderError("--json: standard output takes the WAV file; name a .wav file, or use --report")
        check_standard_output()
    if arguments.overlap is not None and arguments.fold is None:
        raise VocoderError("--overlap only has a meaning together with --fold")
    plan_folds(1, arguments.fold, arguments.overlap)  # so that a bad pair is one error, not one for each file
    if arguments.report is not None:
        check_report(arguments.report, arguments.inputs)
    jobs = plan_jobs(arguments.inputs, arguments.output, arguments.seed, streams=True)
    check_mel_from(arguments.mel_from, (job.input for job in jobs))
    wanted = LoadOptions(arguments.backend, arguments.batch, arguments.threads, arguments.precision, arguments.cache)
    vocoder = Vocoder(
        loaded_model.load_model(arguments.model, wanted),
        arguments.batch or batch_for(len(jobs)),
        SchedulerLimits(lanes=arguments.lanes),
    )
    if (different := mel_from_differences(arguments.mel_from, vocoder.config.audio)) is not None:
        print(f"{PROGRAM}: {different}", file=sys.stderr)
    with ExitStack() as stack:
        if not is_file_name(arguments.output):  # beside a single file, others may be anybody's
            stack.enter_context(locked_folder(arguments.output))
        removed = remove_leftovers(jobs.output_folders())
        if removed and not arguments.quiet:
            print(f"{PROGRAM}: removed {removed} unfinished files of a run that was killed", file=sys.stderr)
        report = None
        if arguments.report is not None:
            report = stack.enter_context(_open_report(arguments.report, vocoder))
        return _vocode(arguments, vocoder, jobs, report)


def batch_for(files: int) -> int:
    """Utterances that are decoded together where neither the user nor the executor decides."""
    from wavernn_trt.runtime.loaded_model import DEFAULT_BATCH

    return max(DEFAULT_BATCH, min(files, MANY))


def _vocode(arguments: argparse.Namespace, vocoder: Vocoder, plan: JobPlan, report: JobReport | None) -> int:
    from wavernn_trt.runtime.jobs.pipeline import run_jobs
    from wavernn_trt.runtime.jobs.report import result_row
    from wavernn_trt.runtime.jobs.result import JobOptions, JobsStopped
    from wavernn_trt.scripts.interruption import interruptible
    from wavernn_trt.scripts.progress import job_bar
    from wavernn_trt.scripts.vocode_report import JsonDocument, Totals

    jobs = _with_streams_read(plan)
    options = JobOptions(arguments.fold, arguments.overlap, arguments.floating, arguments.overwrite, arguments.mel_from)
    rate = vocoder.sample_rate
    totals = Totals(rate)
    document = JsonDocument(sys.stdout, _about(vocoder)) if arguments.json else None
    stopped: str | None = None
    bar = job_bar(jobs, vocoder.config.audio, hidden=arguments.quiet, overwrite=arguments.overwrite)
    with interruptible() as interruption, closing(bar):
        results = run_jobs(vocoder, jobs, options, bar, interruption.stop)
        with closing(results):
            try:
                for result in results:
                    totals.add(result)
                    row = result_row(result, rate)
                    if report is not None:
                        report.add(row)
                    if document is not None:
                        document.add(row)
                    if result.status == "failed":
                        bar.say(f"{PROGRAM}: failed: {result.job.input}: {result.error}")
                    for warning in result.warnings:
                        bar.say(f"{PROGRAM}: warning: {result.job.input}: {warning}")
            except JobsStopped as error:
                stopped = str(error)
    left = len(jobs) - totals.counts.total()
    if interruption.signal is not None:
        stopped = "interrupted" if interruption.signal == signal.SIGINT else "terminated"
    if document is not None:
        document.close(totals=totals.row(), stopped=stopped, left_out=plan.left_out.row())
    if stopped is not None and interruption.signal is None:
        print(f"{PROGRAM}: error: {stopped}; then run this again, and it goes on where it stopped", file=sys.stderr)
    if not arguments.quiet:
        print(totals.summary(left, vocoder.backend, vocoder.engine), file=sys.stderr)
        if plan.left_out:
            print(f"{PROGRAM}: {plan.left_out.summary()}", file=sys.stderr)
    if interruption.signal is not None:
        print(f"{PROGRAM}: {stopped}; finished files are kept, and a rerun goes on behind them", file=sys.stderr)
        return 128 + interruption.signal
    return 1 if totals.counts["failed"] or stopped is not None else 0


def _with_streams_read(plan: JobPlan) -> Sequence[Job]:
    """The jobs; a stream is read here, where Ctrl-C ends the waiting for it."""
    from wavernn_trt.runtime.files.standard_streams import is_input_stream, read_input_stream

    if len(plan) != 1 or not is_input_stream(plan[0].input):
        return plan
    return [replace(plan[0], content=read_input_stream(plan[0].input))]


def _about(vocoder: Vocoder) -> dict[str, Any]:
    return {
        "backend": vocoder.backend,
        "engine": vocoder.engine,
        "model": str(vocoder.config.path),
        "sample_rate": vocoder.sample_rate,
    }


def _open_report(path: Path, vocoder: Vocoder) -> JobReport:
    from wavernn_trt.runtime.jobs.report import JobReport, model_fingerprint

    common = {
        "model_sha256": model_fingerprint(vocoder.config.path),
        "backend": vocoder.backend,
        "engine": vocoder.engine,
    }
    return JobReport(path, common)


def _input(text: str) -> Path:
    from wavernn_trt.runtime.files.standard_streams import STANDARD_INPUT

    return STANDARD_INPUT if text == "-" else path(text)  # ./- is a file of that name


def _output(text: str) -> Path:
    from wavernn_trt.runtime.files.standard_streams import STANDARD_OUTPUT

    return STANDARD_OUTPUT if text == "-" else path(text)


def _fold(text: str) -> int:
    try:
        return positive_integer(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; put --fold behind the inputs, or write --fold=11000") from None
