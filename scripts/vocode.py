"""``wavernn-trt vocode``: recordings and mel spectrograms to speech."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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

DESCRIPTION = """\
Vocodes mel spectrograms with a WaveRNN vocoder. Recordings are analysed first and
re-synthesised in the model's voice and at its sample rate (copy synthesis).
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

several workers:
  --ray vocodes the files on several workers, each with a model of its own: on this machine, or
  with --address on a Ray cluster, where inputs, outputs and model have to be under the same
  path on every machine. The files are the same, byte for byte. Jobs of a worker that dies are
  given to another. Needs the extra 'ray'.

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
  wavernn-trt vocode mels/ -o speech/ --ray --actors 4
  wavernn-trt vocode list.jsonl -o /nfs/speech --ray --address auto --report report.jsonl
  ffmpeg -i speech.m4a -f wav - | wavernn-trt vocode - -o - | aplay

exit codes: 0 all done; 1 some files failed, or the run had to stop; 2 wrong usage;
130 interrupted (Ctrl-C); 143 terminated (SIGTERM)
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = subparsers.add_parser(
        "vocode",
        help="vocode mel spectrograms, or re-synthesise recordings",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("inputs", nargs="+", type=_input, metavar="INPUT", help="what to vocode, see below")
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
        "--threads",
        type=positive_integer,
        metavar="N",
        help="CPU threads (default: the backend's choice; with --ray, the CPU cores of a worker)",
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
        "32; with --ray, 8 a worker; torch: 1; cuda: 32; an engine: all it can)",
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
    files.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
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

    ray = parser.add_argument_group("several workers")
    ray.add_argument("--ray", action="store_true", help="vocode on workers of a Ray, see below")
    ray.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a cluster, or 'auto' for one that this machine belongs to (default: RAY_ADDRESS if it is set, else "
        "workers of its own on this machine)",
    )
    ray.add_argument(
        "--actors", type=positive_integer, metavar="N", help="workers (default: as many as there is room for)"
    )
    ray.add_argument(
        "--cpus-per-actor", type=positive_number, metavar="N", help="CPU cores that each takes (default: 1)"
    )
    ray.add_argument(
        "--gpus-per-actor",
        type=_gpus,
        metavar="N",
        help="GPUs that each takes, 0.5 for two workers on one (default: 1 where there are GPUs, unless the backend is "
        "onnxruntime or torch)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Vocodes; returns 0, 1 if some files failed or no more could be written, or 130 or 143 after a signal.

    Raises:
        ValueError: a mistake in the arguments, before any work is done; or no worker can start.
        OSError: the report cannot be written.
    """
    from wavernn_trt.runtime.files.output_files import remove_leftovers
    from wavernn_trt.runtime.jobs.output_folder import locked_folder
    from wavernn_trt.runtime.jobs.plan import is_file_name, plan_jobs
    from wavernn_trt.runtime.jobs.report import JobReport, model_fingerprint
    from wavernn_trt.runtime.jobs.result import JobOptions
    from wavernn_trt.scripts.vocode_run import decoder_here, decoder_on_ray, run_all

    _check(arguments)
    jobs = plan_jobs(arguments.inputs, arguments.output, arguments.seed, streams=not arguments.ray)
    check_mel_from(arguments.mel_from, (job.input for job in jobs))
    options = JobOptions(arguments.fold, arguments.overlap, arguments.floating, arguments.overwrite, arguments.mel_from)
    decoder = (decoder_on_ray if arguments.ray else decoder_here)(arguments, jobs, options)
    if (different := mel_from_differences(arguments.mel_from, decoder.audio)) is not None:
        print(f"{PROGRAM}: {different}", file=sys.stderr)
    with ExitStack() as stack:
        if not is_file_name(arguments.output):  # beside a single file, others may be anybody's
            stack.enter_context(locked_folder(arguments.output))
        removed = remove_leftovers(jobs.output_folders())
        if removed and not arguments.quiet:
            print(f"{PROGRAM}: removed {removed} unfinished files of a run that was killed", file=sys.stderr)
        if arguments.ray:
            stack.callback(remove_leftovers, jobs.output_folders())  # of workers that died
        report = None
        if arguments.report is not None:
            common = {"model_sha256": model_fingerprint(decoder.model)}
            report = stack.enter_context(JobReport(arguments.report, common))
        return run_all(arguments, decoder, jobs, report)


def _check(arguments: argparse.Namespace) -> None:
    from wavernn_trt.runtime.decoding.folding import plan_folds
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.standard_streams import check_standard_output, is_standard_output
    from wavernn_trt.runtime.jobs.report import check_report

    if not arguments.ray:
        for option in ("--address", "--actors", "--cpus-per-actor", "--gpus-per-actor"):
            if getattr(arguments, option[2:].replace("-", "_")) is not None:
                raise VocoderError(f"{option} only has a meaning together with --ray")
    if is_standard_output(arguments.output):
        if arguments.json:
            raise VocoderError("--json: standard output takes the WAV file; name a .wav file, or use --report")
        check_standard_output()
    if arguments.overlap is not None and arguments.fold is None:
        raise VocoderError("--overlap only has a meaning together with --fold")
    plan_folds(1, arguments.fold, arguments.overlap)  # so that a bad pair is one error, not one for each file
    if arguments.report is not None:
        check_report(arguments.report, arguments.inputs)


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


def _gpus(text: str) -> float:
    return 0.0 if text == "0" else positive_number(text)
