"""``wavernn-trt vocode``: converts mel spectrograms and recordings to speech."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wavernn_trt.export.operators import NATIVE_PRECISIONS
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS
from wavernn_trt.scripts import notice
from wavernn_trt.scripts.arguments import (
    add_command,
    add_mel_from,
    check_mel_from,
    mel_from_differences,
    path,
    positive_integer,
    positive_number,
    seed,
)

DESCRIPTION = """\
Converts mel spectrograms to speech with a WaveRNN vocoder. From a recording, the mel spectrogram
is computed first (copy synthesis); the output has the model's voice and sample rate.
"""
EPILOG = """\
inputs:
  speech.wav .flac .mp3  a recording, of any sample rate and number of channels, in any format
                         that libsndfile reads: also .ogg .opus .aiff .au .caf .w64 … (not
                         .m4a .aac .wma .webm: ffmpeg -i speech.m4a speech.wav)
  mel.npy .npz .pt       a mel spectrogram [n_mels, frames], floating-point, in the model's
                         range: from numpy.save; from numpy.savez with a single array or one
                         named mel; or a PyTorch tensor (needs PyTorch; only tensors are loaded)
  a folder               all such files in it and its subfolders; the output has the same
                         structure. Other files are left out and counted at the end. If a.wav
                         and a.mp3 are in the same folder, the outputs are a.wav.wav and a.mp3.wav
  list.jsonl             a manifest with one line per file, such as
                         {"input": "a.wav", "output": "b.wav", "seed": 1}; only "input" is required
  - or /dev/stdin        a recording or a mel from a pipe, as the only input; -o - writes the
                         WAV file of a single input to standard output

A recording that is truncated, or whose header was written to a pipe, is read up to its end, with a
warning about the missing part. A truncated mel is an error.

The same input and seed give the same waveform, independently of the other files of the run.

many files:
  Reading, decoding and writing overlap, and memory use does not grow with the number of files.
  After an interruption of any kind (Ctrl-C, kill -9, a power failure, a full disk), the same
  command continues where it stopped: only complete outputs appear, and existing ones are skipped,
  unless --overwrite is given. Only one run at a time can write into a folder. A bad file is
  reported and the run continues; a full disk or a backend that fails repeatedly stops it.
  --report appends a line for each finished file, also over several runs.

several workers:
  --ray vocodes the files on several workers, each with its own copy of the model: on this machine,
  or with --address on a Ray cluster, where inputs, outputs and model must have the same path on
  every machine. The outputs are the same, byte for byte. If a worker dies, another one takes over
  its jobs. Needs the extra 'ray'.

mels of other projects:
  --mel-from tacotron2 (coqui, fatchord, librosa-power, …) converts the levels of such mels to
  the model's; 'wavernn-trt vocode --mel-from list' prints all names. Sample rate, hop length,
  mel filters, fmin, fmax and pre-emphasis cannot be converted; a warning names what usually
  differs. 'wavernn-trt inspect DIR --mel M --recording R' finds how a mel differs from the model.

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

exit codes: 0 success; 1 some files failed, or the run had to stop; 2 wrong usage;
130 interrupted (Ctrl-C); 143 terminated (SIGTERM)
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "vocode", run, DESCRIPTION, EPILOG)
    parser.add_argument("inputs", nargs="+", type=_input, metavar="INPUT", help="mels, recordings, folders; see below")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=_output,
        metavar="OUT",
        help="a .wav file or - (standard output) for a single input, else a folder",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the shipped voice)")
    model.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="native (CPU), onnxruntime (CPU), tensorrt or tensorrt-rtx (GPU, see 'wavernn-trt build'), cuda (GPU "
        "without TensorRT), torch (the slow reference) or auto: a built engine if one fits this machine, else cuda if "
        "available, else native, else onnxruntime (default: %(default)s)",
    )
    model.add_argument(
        "--threads",
        type=positive_integer,
        metavar="N",
        help="CPU threads (default: the backend's choice; with --ray, the CPU cores of a worker)",
    )
    model.add_argument(
        "--precision",
        choices=dict.fromkeys((*WEIGHT_PRECISIONS, *NATIVE_PRECISIONS)),
        help="on a GPU fp32, fp16, bf16 (default: that of the engine used last; cuda: fp16, or fp32 on older GPUs) or, "
        "for cuda only, fp8 (only the weights); for native fp32, bf16 or int8 (only the weights; default: the model's)",
    )
    model.add_argument("--cache", type=path, metavar="CACHE", help="folder of plans (default: the user's cache folder)")
    model.add_argument(
        "--lanes",
        type=positive_integer,
        metavar="N",
        help="decode in N threads, each with a part of the batch (default: chosen for the backend and the machine)",
    )
    speech = parser.add_argument_group("speech")
    add_mel_from(speech)
    speech.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed of the random numbers, 0 to 2**64 - 1 (default: %(default)s)",
    )
    speech.add_argument(
        "--batch",
        type=positive_integer,
        metavar="N",
        help="utterances (or folds) decoded together; more is faster (default: the number of files, from 8 to 32; with "
        "--ray, 8 per worker; torch: 1; cuda: 32; an engine: its maximum)",
    )
    speech.add_argument(
        "--fold",
        nargs="?",
        type=_fold,
        const=11000,
        metavar="N",
        help="split utterances into folds of N samples that are decoded together (N: 11000 if omitted)",
    )
    speech.add_argument(
        "--overlap", type=positive_integer, metavar="N", help="crossfade folds over N samples (default: 550)"
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--float", action="store_true", dest="floating", help="write 32-bit float WAV files instead of 16-bit"
    )
    files.add_argument("--overwrite", action="store_true", help="overwrite existing outputs")
    files.add_argument("--json", action="store_true", help="print one JSON object with the result of every file")
    files.add_argument(
        "--report",
        type=path,
        metavar="FILE.jsonl",
        help="append a JSON line for each finished file: input, output, status, seed, seconds, rtf, error, model, …",
    )
    files.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bar and no summary; errors are still printed"
    )

    ray = parser.add_argument_group("several workers")
    ray.add_argument("--ray", action="store_true", help="vocode on several workers with Ray, see below")
    ray.add_argument(
        "--address",
        metavar="ADDRESS",
        help="address of a Ray cluster, or 'auto' for the one this machine belongs to (default: RAY_ADDRESS if set, "
        "else new workers on this machine)",
    )
    ray.add_argument("--actors", type=positive_integer, metavar="N", help="number of workers (default: as many as fit)")
    ray.add_argument("--cpus-per-actor", type=positive_number, metavar="N", help="CPU cores per worker (default: 1)")
    ray.add_argument(
        "--gpus-per-actor",
        type=_gpus,
        metavar="N",
        help="GPUs per worker; 0.5 for two workers per GPU (default: 1 if there are GPUs, 0 if the backend is "
        "onnxruntime or torch)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Vocodes the files; returns 0, 1 if some failed or the run had to stop, or 130 or 143 after a signal.

    Raises:
        ValueError: wrong arguments, before any work is done; or no worker can start.
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
        notice(different)
    with ExitStack() as stack:
        if not is_file_name(arguments.output):  # a single output file shares its folder with other programs
            stack.enter_context(locked_folder(arguments.output))
        removed = remove_leftovers(jobs.output_folders())
        if removed and not arguments.quiet:
            notice(f"removed {removed} unfinished files of a run that was killed")
        if arguments.ray:
            stack.callback(remove_leftovers, jobs.output_folders())  # from workers that died
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
                raise VocoderError(f"{option} needs --ray")
    if is_standard_output(arguments.output):
        if arguments.json:
            raise VocoderError("--json: standard output is used for the WAV file; name a .wav file, or use --report")
        check_standard_output()
    if arguments.overlap is not None and arguments.fold is None:
        raise VocoderError("--overlap needs --fold")
    plan_folds(1, arguments.fold, arguments.overlap)  # reports a bad pair once, not for each file
    if arguments.report is not None:
        check_report(arguments.report, arguments.inputs)


def _input(text: str) -> Path:
    from wavernn_trt.runtime.files.standard_streams import STANDARD_INPUT

    return STANDARD_INPUT if text == "-" else path(text)  # a file named "-" is ./-


def _output(text: str) -> Path:
    from wavernn_trt.runtime.files.standard_streams import STANDARD_OUTPUT

    return STANDARD_OUTPUT if text == "-" else path(text)


def _fold(text: str) -> int:
    try:
        return positive_integer(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; put --fold after the inputs, or write --fold=11000") from None


def _gpus(text: str) -> float:
    return 0.0 if text == "0" else positive_number(text)
