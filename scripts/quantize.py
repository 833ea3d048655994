"""``wavernn-trt quantize``: quantises a model directory to 8 bits, and measures the loss."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import notice
from wavernn_trt.scripts.arguments import add_command, comma_separated, path, positive_integer, positive_number

if TYPE_CHECKING:
    from wavernn_trt.calibration.table import CalibrationTable
    from wavernn_trt.export.model_directory import ModelDirectory
    from wavernn_trt.export.quantization import Quantization
    from wavernn_trt.scripts.quantize_report import HeldOut, Measured

DESCRIPTION = """\
Writes a model directory whose matrix products (recurrent and fully connected) compute in 8 bits. It
is used like any other: by vocode, score and build.

  int8          weights and activations; the fastest on CPUs and GPUs
  fp8           weights and activations in e4m3; for GPUs of compute capability 8.9 or higher
  int8-weights  weights only, to measure their part of the loss; products are not computed in 8 bits
  fp8-weights   likewise, in e4m3; the backend cuda stores such weights in one byte each

Gates, embedding, biases, softmax and sampling stay in float32. Weights have one scale per output
channel. Activations have one scale per product, taken from a table (wavernn-trt calibrate).

With --held-out recordings, the loss in bits per sample is measured, for each product alone and for
all together, and --budget keeps the products with the largest loss in float32 until the total is
within BITS. With --speech instead of --table, the model is first calibrated on the recordings, and
the table is written to OUT.json; without --held-out, every fourth of them is left out of the
calibration and used to measure the loss.
"""
EPILOG = """\
examples:
  wavernn-trt quantize my-voice --precision int8 --speech recordings/ --budget 0.01 -o my-voice-int8
  wavernn-trt quantize my-voice --precision fp8 --table my-voice.json --held-out kept-out/ -o my-voice-fp8
  wavernn-trt quantize my-voice --precision int8 --table my-voice.json --keep output -o my-voice-int8

products: recurrent_0 and recurrent_1 (of each GRU), input_1 (of the second GRU), fc_0, fc_1, output.
A model with one GRU and two fully connected layers has recurrent_0, fc_0 and output

exit codes: 0 success; 1 some recordings could not be used, or no product is within the budget; 2 wrong
usage; 130 interrupted: the same command continues the calibration after the recordings that are done
"""
_HELD_OUT_ONE_IN = 4


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "quantize", run, DESCRIPTION, EPILOG)
    parser.add_argument("model", type=path, metavar="DIR", help="model directory, written by 'wavernn-trt export'")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="OUT", help="model directory to write")
    parser.add_argument(
        "--precision", required=True, metavar="P", help="int8, fp8, int8-weights or fp8-weights: see above"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--table", type=path, metavar="TABLE", help="activation ranges, from 'wavernn-trt calibrate'")
    source.add_argument(
        "--speech", nargs="+", type=path, metavar="SPEECH", help="calibrate on these recordings, or folders of them"
    )
    parser.add_argument(
        "--held-out", nargs="+", type=path, metavar="SPEECH", help="measure the loss on these recordings, or folders"
    )
    parser.add_argument(
        "--keep",
        type=comma_separated,
        default=(),
        metavar="P,…",
        help="products to keep in float32, separated by commas",
    )
    parser.add_argument(
        "--budget",
        type=positive_number,
        metavar="BITS",
        help="largest loss in bits per sample; keeps the products with the largest loss in float32",
    )
    parser.add_argument(
        "--method",
        metavar="M",
        help="which bounds of the table to use: minmax, percentile, entropy or mse (default: percentile; fp8: mse)",
    )
    parser.add_argument(
        "--steps", type=positive_integer, metavar="T", help="samples per call of decoder.onnx (default: as in DIR)"
    )
    parser.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads (default: chosen for the machine)"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite OUT if it is a model directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Writes the directory; returns 0, or 1 if some recordings could not be used, or no product is within the budget.

    Raises:
        ValueError: wrong arguments, before any work is done; or no recording could be used.
        OSError: the output cannot be written.
    """
    from wavernn_trt.scripts.extras import need_onnx

    need_onnx("quantize")
    from wavernn_trt.calibration.precisions import quantization_of
    from wavernn_trt.calibration.quantize import quantize
    from wavernn_trt.runtime.files.output_files import prepare_output
    from wavernn_trt.scripts.quantize_report import HeldOut, format_report, make_report

    directory = _check(arguments)
    calibrating, measuring = _split_recordings(arguments)
    if arguments.budget is not None and not measuring:
        raise ValueError("--budget: found no recordings to measure the loss on; name some with --held-out")
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
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(format_report(report)))
    if not quantization.products:
        notice(f"within {arguments.budget:g} bits no product can be {arguments.precision}; nothing is written")
    return 1 if failed or not quantization.products else 0


def _check(arguments: argparse.Namespace) -> ModelDirectory:
    """Checks the arguments and opens the model."""
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
                raise ValueError(f"--{option}: {arguments.precision} has no activation ranges; measure with --held-out")
    directory = open_model_directory(arguments.model)
    check_unquantized(directory)
    if arguments.output.resolve() == directory.path.resolve():
        raise ValueError(f"{arguments.output} is the input directory; choose another output with -o")
    refuse_to_replace(arguments.output, overwrite=arguments.overwrite)
    if set(check_products(directory.model, arguments.keep)) <= set(arguments.keep):
        raise ValueError("--keep: found all products; leave at least one to quantise")
    return directory


def _split_recordings(arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Returns the recordings to calibrate on, and those to measure on."""
    measuring = _distinct(arguments.held_out) if arguments.held_out else []
    if not arguments.speech:
        return [], measuring
    calibrating = _distinct(arguments.speech)
    if measuring or len(calibrating) < 2:
        return calibrating, measuring
    kept_out = calibrating[_HELD_OUT_ONE_IN - 1 :: _HELD_OUT_ONE_IN] or calibrating[-1:]
    return [file for file in calibrating if file not in kept_out], kept_out


def _distinct(inputs: Sequence[Path]) -> list[Path]:
    """Finds the recordings and drops those whose content is that of an earlier one. Keeps unreadable files."""
    from wavernn_trt.export.model_directory import file_sha256
    from wavernn_trt.scripts.recordings import find_recordings

    found: dict[str, Path] = {}
    for file in find_recordings(inputs):
        found.setdefault(file_sha256(file) if file.is_file() else str(file), file)
    return list(found.values())


def _table_beside(arguments: argparse.Namespace) -> Path:
    """Returns the file for the table of a calibration."""
    output: Path = arguments.output
    table = output.with_name(f"{output.name}.json")
    if table.exists() and not arguments.overwrite:
        raise ValueError(f"{table} already exists; use it with --table, or overwrite it with --overwrite")
    return table


def _read(directory: ModelDirectory, files: Sequence[Path]) -> HeldOut:
    from wavernn_trt.calibration.errors import CalibrationError, reason_of
    from wavernn_trt.calibration.score import analyse_speech
    from wavernn_trt.runtime.files.audio import read_audio
    from wavernn_trt.scripts.quantize_report import HeldOut

    held_out = HeldOut()
    for file in files:
        try:
            held_out.speech.append((file, analyse_speech(directory.audio, *read_audio(file))))
        except Exception as error:  # a bad file does not stop the measurement
            held_out.failed.append((file, reason_of(error)))
            _report_failure(*held_out.failed[-1])
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
        _report_failure(file, reason)

    partial = made.with_name(f".{made.name}.partial")
    with file_bar("calibrating", calibrating, directory.audio, hidden=arguments.quiet) as bar:
        table = calibrate(
            directory,
            calibrating,
            threads=arguments.threads,
            progress=bar.decoded,
            failed=note,
            notice=notice,
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
            notice(f"warning: {file} was used for calibration, so that its loss is underestimated")


def _measure(
    directory: ModelDirectory, quantization: Quantization, held_out: HeldOut, arguments: argparse.Namespace
) -> Measured:
    from wavernn_trt.calibration.loss import LossMeter, keep_within, measurements
    from wavernn_trt.scripts.progress import file_bar
    from wavernn_trt.scripts.quantize_report import Measured

    def show(names: str, loss: float) -> None:
        bar.set_title(f"measuring ({names}: {loss:+.4f})")

    runs = measurements(quantization, arguments.budget)
    files = [file for file, _ in held_out.speech for _ in range(runs)]
    with file_bar("measuring", files, directory.audio, hidden=arguments.quiet) as bar:
        speech = [speech for _, speech in held_out.speech]
        meter = LossMeter(directory, speech, threads=arguments.threads, progress=bar.decoded)
        return Measured(meter.bits, keep_within(meter, quantization, arguments.budget, show))


def _report_failure(file: Path, reason: str) -> None:
    notice(f"failed: {file}: {reason.removeprefix(f'{file}: ')}")
