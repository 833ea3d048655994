"""``wavernn-trt quantize``: a model directory whose products compute in eight bits, and what that costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import PROGRAM

if TYPE_CHECKING:
    from wavernn_trt.calibration.table import CalibrationTable
    from wavernn_trt.export.model_directory import ModelDirectory
    from wavernn_trt.export.quantization import Quantization
    from wavernn_trt.scripts.quantize_report import HeldOut, Measured

DESCRIPTION = """\
Makes a model directory whose matrix products (recurrent and fully connected) compute in eight
bits. It is used as any other: vocode it, score it, build engines of it.

  int8          weights and activations; the fast one on CPUs and GPUs
  fp8           weights and activations in e4m3; GPUs from compute capability 8.9 on
  int8-weights  weights alone, to tell what the rest costs; products stay as they are
  fp8-weights   likewise; the backend cuda stores such weights in a byte each

Gates, embedding, biases, softmax and sampling stay in float32. Weights have a scale for each
output channel, activations one for each product, out of a table (wavernn-trt calibrate).

With recordings to measure on (--held-out), the loss is printed in bits a sample, for each product
alone and for all together, and --budget keeps the most harmful in float32 until it is small enough.
With --speech instead of --table, calibrates on the recordings first, and leaves the table in OUT.json;
unless --held-out names others, every fourth of them is kept out of that and measured on.
"""
EPILOG = """\
examples:
  wavernn-trt quantize my-voice --precision int8 --speech recordings/ --budget 0.01 -o my-voice-int8
  wavernn-trt quantize my-voice --precision fp8 --table my-voice.json --held-out kept-out/ -o my-voice-fp8
  wavernn-trt quantize my-voice --precision int8 --table my-voice.json --keep output -o my-voice-int8

products: recurrent_0 and recurrent_1 (each GRU's), input_1 (the second GRU's), fc_0, fc_1, output;
one GRU and two layers behind it make recurrent_0, fc_0 and output

exit codes: 0 done; 1 some recordings could not be used, or no product is within the budget; 2 wrong usage;
130 interrupted: the same command goes on behind the recordings that it had calibrated on
"""
_HELD_OUT_ONE_IN = 4


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    from wavernn_trt.scripts.arguments import path, positive_integer, positive_number

    parser = subparsers.add_parser(
        "quantize",
        help="make a model directory that computes in eight bits, and measure what that costs",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", type=path, metavar="DIR", help="model directory, as 'wavernn-trt export' makes it")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="OUT", help="the directory to make")
    parser.add_argument(
        "--precision", required=True, metavar="P", help="int8, fp8, int8-weights or fp8-weights: see above"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--table", type=path, metavar="TABLE", help="ranges of activations, by 'wavernn-trt calibrate'")
    source.add_argument(
        "--speech", nargs="+", type=path, metavar="SPEECH", help="recordings, or folders of them, to calibrate on"
    )
    parser.add_argument(
        "--held-out", nargs="+", type=path, metavar="SPEECH", help="recordings, or folders of them, to measure on"
    )
    parser.add_argument(
        "--keep",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="P,…",
        help="products to leave in float32, with commas between them",
    )
    parser.add_argument(
        "--budget",
        type=positive_number,
        metavar="BITS",
        help="bits a sample that may be lost; leaves the most harmful products in float32 until no more are",
    )
    parser.add_argument(
        "--method",
        metavar="M",
        help="which bounds of the table: minmax, percentile, entropy or mse (default: percentile; fp8: mse)",
    )
    parser.add_argument("--steps", type=positive_integer, metavar="T", help="of decoder.onnx (default: as DIR has it)")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="CPU threads (default: as many as suit)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a model directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Quantises; returns 0, or 1 where some recordings could not be used, or no product is within the budget.

    Raises:
        ValueError: a mistake in the arguments, before any work is done; or no recording that can be used.
        OSError: nothing can be written there.
    """
    from wavernn_trt.scripts.extras import need_onnx

    need_onnx("quantize")
    from wavernn_trt.calibration.precisions import quantization_of
    from wavernn_trt.calibration.quantize import quantize
    from wavernn_trt.runtime.files.output_files import prepare_output
    from wavernn_trt.scripts.quantize_report import HeldOut, lay_out, make_report

    directory = _check(arguments)
    calibrating, measuring = _share_out(arguments)
    if arguments.budget is not None and not measuring:
        raise ValueError("--budget: the loss is measured on recordings; name some with --held-out")
    made_table = _table_beside(arguments) if calibrating else None
    prepare_output(made_table or arguments.output.with_name(f"{arguments.output.name}.json"))
    held_out = _read(directory, measuring) if measuring else HeldOut()
    failed = list(held_out.failed)
    table = _table(directory, calibrating, made_table, arguments, failed)
    wanted = quantization_of(arguments.precision, directory.model, table, arguments.method, arguments.keep)
    if table is not None:
        _warn_of_leaks(held_out, table)
    measured = _measure(directory, wanted, held_out, arguments) if held_out.speech else None
    quantization = wanted if measured is None else measured.choice.quantization
    if quantization.products:
        quantize(directory, quantization, arguments.output, steps=arguments.steps, overwrite=arguments.overwrite)
    report = make_report(
        directory.model,
        directory.audio.sample_rate,
        quantization,
        measured,
        held_out,
        failed,
        {
            "model": str(directory.path),
            "output": str(arguments.output) if quantization.products else None,
            "precision": arguments.precision,
            "keep": list(arguments.keep),
            "budget": arguments.budget,
            "table": str(made_table or arguments.table) if table is not None else None,
        },
    )
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(lay_out(report)))
    if not quantization.products:
        unable = f"within {arguments.budget:g} bits no product can be {arguments.precision}"
        print(f"{PROGRAM}: {unable}; nothing is made", file=sys.stderr)
    return 1 if failed or not quantization.products else 0


def _check(arguments: argparse.Namespace) -> ModelDirectory:
    """Opens the model, if what is asked for can be done."""
    from wavernn_trt.calibration.precisions import EIGHT_BITS, check_products, needs_table
    from wavernn_trt.calibration.quantize import check_unquantized
    from wavernn_trt.calibration.table import METHODS
    from wavernn_trt.export.model_directory import open_model_directory
    from wavernn_trt.export.new_directory import refuse_to_replace

    if arguments.precision not in EIGHT_BITS:
        raise ValueError(f"--precision: found {arguments.precision!r}, expected one of {', '.join(EIGHT_BITS)}")
    if arguments.method is not None and arguments.method not in METHODS:
        raise ValueError(f"--method: found {arguments.method!r}, expected one of {', '.join(METHODS)}")
    if not needs_table(arguments.precision):
        for option in ("table", "speech", "method"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option}: {arguments.precision} rounds no activations; measure with --held-out")
    directory = open_model_directory(arguments.model)
    check_unquantized(directory)
    if arguments.output.resolve() == directory.path.resolve():
        raise ValueError(f"{arguments.output} is what is to be quantised; choose another place with -o")
    refuse_to_replace(arguments.output, overwrite=arguments.overwrite)
    if set(check_products(directory.model, arguments.keep)) <= set(arguments.keep):
        raise ValueError("--keep: found every product: nothing is left to quantise")
    return directory


def _share_out(arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The recordings to calibrate on, and those to measure on."""
    measuring = _different(arguments.held_out) if arguments.held_out else []
    if not arguments.speech:
        return [], measuring
    calibrating = _different(arguments.speech)
    if measuring or len(calibrating) < 2:
        return calibrating, measuring
    kept_out = calibrating[_HELD_OUT_ONE_IN - 1 :: _HELD_OUT_ONE_IN] or calibrating[-1:]
    return [file for file in calibrating if file not in kept_out], kept_out


def _different(inputs: Sequence[Path]) -> list[Path]:
    """The files that inputs mean; of those with the same content the first. What cannot be read is told later."""
    from wavernn_trt.export.model_directory import file_sha256
    from wavernn_trt.scripts.recordings import find_recordings

    found: dict[str, Path] = {}
    for file in find_recordings(inputs):
        found.setdefault(file_sha256(file) if file.is_file() else str(file), file)
    return list(found.values())


def _table_beside(arguments: argparse.Namespace) -> Path:
    """Where the table goes that is made on the way."""
    output: Path = arguments.output
    path = output.with_name(f"{output.name}.json")
    if path.exists() and not arguments.overwrite:
        raise ValueError(f"{path} is there already; take it with --table, or replace it with --overwrite")
    return path


def _read(directory: ModelDirectory, files: Sequence[Path]) -> HeldOut:
    from wavernn_trt.calibration.errors import CalibrationError, reason_of
    from wavernn_trt.calibration.score import analyse_speech
    from wavernn_trt.runtime.files.audio import read_audio
    from wavernn_trt.scripts.quantize_report import HeldOut

    held_out = HeldOut()
    for file in files:
        try:
            held_out.speech.append((file, analyse_speech(directory.audio, *read_audio(file))))
        except Exception as error:  # whatever is wrong with one file, the others can still be measured on
            held_out.failed.append((file, reason_of(error)))
            _complain(*held_out.failed[-1])
    if not held_out.speech:
        raise CalibrationError("none of the recordings to measure on can be used")
    return held_out


def _table(
    directory: ModelDirectory,
    calibrating: Sequence[Path],
    made: Path | None,
    arguments: argparse.Namespace,
    failed: list[tuple[Path, str]],
) -> CalibrationTable | None:
    from wavernn_trt.calibration.calibrate import calibrate
    from wavernn_trt.calibration.table import read_table
    from wavernn_trt.scripts.progress import file_bar

    if arguments.table is not None:
        table = read_table(arguments.table)
        table.check(directory)
        return table
    if made is None:
        return None

    def note(file: Path, reason: str) -> None:
        failed.append((file, reason))
        _complain(file, reason)

    partial = made.with_name(f".{made.name}.partial")
    with file_bar("calibrating", calibrating, directory.audio, hidden=arguments.quiet) as bar:
        table = calibrate(
            directory,
            calibrating,
            threads=arguments.threads,
            progress=bar.decoded,
            failed=note,
            notice=lambda line: print(f"{PROGRAM}: {line}", file=sys.stderr),
            partial=partial,
        )
    table.write(made)
    partial.unlink(missing_ok=True)
    return table


def _warn_of_leaks(held_out: HeldOut, table: CalibrationTable) -> None:
    from wavernn_trt.export.model_directory import file_sha256

    known = {one.sha256 for one in table.inputs}
    for file, _ in held_out.speech:
        if file_sha256(file) in known:
            print(f"{PROGRAM}: warning: {file} is one that was calibrated on: its loss is too small", file=sys.stderr)


def _measure(
    directory: ModelDirectory, quantization: Quantization, held_out: HeldOut, arguments: argparse.Namespace
) -> Measured:
    from wavernn_trt.calibration.loss import LossMeter, keep_within, measurements
    from wavernn_trt.scripts.progress import file_bar
    from wavernn_trt.scripts.quantize_report import Measured

    def told(names: str, loss: float) -> None:
        bar.entitle(f"measuring ({names}: {loss:+.4f})")

    runs = measurements(quantization, arguments.budget)
    files = [file for file, _ in held_out.speech for _ in range(runs)]
    with file_bar("measuring", files, directory.audio, hidden=arguments.quiet) as bar:
        speech = [speech for _, speech in held_out.speech]
        meter = LossMeter(directory, speech, threads=arguments.threads, progress=bar.decoded)
        return Measured(meter.bits, keep_within(meter, quantization, arguments.budget, told))


def _complain(file: Path, reason: str) -> None:
    print(f"{PROGRAM}: failed: {file}: {reason.removeprefix(f'{file}: ')}", file=sys.stderr)
