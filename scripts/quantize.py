"""``wavernn-trt quantize``: a model directory whose products compute in eight bits, and what that costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import PROGRAM

if TYPE_CHECKING:
    from wavernn_trt.calibration.loss import Choice, LossMeter
    from wavernn_trt.calibration.score import Speech
    from wavernn_trt.calibration.table import CalibrationTable
    from wavernn_trt.export.model_directory import ModelDirectory
    from wavernn_trt.export.quantization import Quantization

DESCRIPTION = """\
Makes a model directory whose matrix products (recurrent and fully connected) compute in eight
bits. vocode, score, serve from it, or build engines of it, as of any other.

  int8          weights and activations; the fast one on CPUs and GPUs
  fp8           weights and activations in e4m3; GPUs from compute capability 8.9 on
  int8-weights  weights alone: a smaller file, and engines that read less memory
  fp8-weights   likewise

Gates, embedding, biases, softmax and sampling stay in float32. Weights have a scale for each
output channel, activations one for each product, out of a table (wavernn-trt calibrate).

With recordings to measure on (--held-out), the loss is printed in bits a sample, for each product
alone and for all together, and --budget keeps the most harmful in float32 until it is small enough.
With --speech instead of --table, calibrates on the recordings first; unless --held-out names others,
every fourth of them is kept out of that and measured on.
"""
EPILOG = """\
examples:
  wavernn-trt quantize my-voice --precision int8 --speech recordings/ --budget 0.01 -o my-voice-int8
  wavernn-trt quantize my-voice --precision fp8 --table my-voice.json --held-out kept-out/ -o my-voice-fp8
  wavernn-trt quantize my-voice --precision int8 --table my-voice.json --keep output -o my-voice-int8

products: recurrent_0 and recurrent_1 (each GRU's), input_1 (the second GRU's), fc_0, fc_1, output;
one GRU and two layers behind it make recurrent_0, fc_0 and output

exit codes: 0 done; 1 no product can be rounded within the budget; 2 wrong usage; 130 interrupted
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
        help="bits a sample that may be lost; leaves the most harmful products in float32 until they are not",
    )
    parser.add_argument(
        "--method",
        metavar="M",
        help="of the bounds: minmax, percentile, entropy or mse (default: percentile for int8, mse for fp8)",
    )
    parser.add_argument("--steps", type=positive_integer, metavar="T", help="of decoder.onnx (default: as DIR has it)")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="CPU threads (default: as many as suit)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a model directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Quantises; returns 0, or 1 where no product can be rounded within the budget.

    Raises:
        ValueError: a mistake in the arguments, before any work is done.
    """
    from wavernn_trt.calibration.precisions import EIGHT_BITS, check_products, needs_table, quantization_of
    from wavernn_trt.calibration.quantize import quantize
    from wavernn_trt.calibration.table import METHODS, read_table
    from wavernn_trt.export.model_directory import open_model_directory
    from wavernn_trt.export.new_directory import refuse_to_replace

    if arguments.precision not in EIGHT_BITS:
        raise ValueError(f"--precision: found {arguments.precision!r}, expected one of {', '.join(EIGHT_BITS)}")
    if arguments.method is not None and arguments.method not in METHODS:
        raise ValueError(f"--method: found {arguments.method!r}, expected one of {', '.join(METHODS)}")
    directory = open_model_directory(arguments.model)
    if directory.quantization is not None:
        raise ValueError(f"{directory.path} is quantised already; quantise the directory that it was made from")
    refuse_to_replace(arguments.output, overwrite=arguments.overwrite)
    calibrating, held_out = _share_out(arguments)
    if arguments.budget is not None and not held_out:
        raise ValueError("--budget: the loss is measured on recordings; name some with --held-out")
    check_products(directory.model, arguments.keep)
    table = None
    if arguments.table is not None:
        table = read_table(arguments.table)
        table.check(directory)
    elif calibrating and needs_table(arguments.precision):
        table = _calibrate(directory, calibrating, arguments)
    wanted = quantization_of(arguments.precision, directory.model, table, arguments.method, arguments.keep)
    measured = _measure(directory, wanted, held_out, table, arguments) if held_out else None
    quantization = wanted if measured is None else measured[1].quantization
    within = measured is None or bool(quantization.products) or not wanted.products
    if within:
        quantize(directory, quantization, arguments.output, steps=arguments.steps, overwrite=arguments.overwrite)
    report = _report(directory, quantization, measured, arguments)
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(_table(report)))
    if within:
        return 0
    print(
        f"{PROGRAM}: within {arguments.budget:g} bits no product can be {arguments.precision}; nothing is written",
        file=sys.stderr,
    )
    return 1


def _share_out(arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The recordings to calibrate on, and those to measure on."""
    from wavernn_trt.scripts.recordings import find_recordings

    held_out = find_recordings(arguments.held_out) if arguments.held_out else []
    if not arguments.speech:
        return [], held_out
    calibrating = find_recordings(arguments.speech)
    if held_out or len(calibrating) < 2:
        return calibrating, held_out
    kept_out = calibrating[_HELD_OUT_ONE_IN - 1 :: _HELD_OUT_ONE_IN] or calibrating[-1:]
    return [file for file in calibrating if file not in kept_out], kept_out


def _calibrate(directory: ModelDirectory, files: Sequence[Path], arguments: argparse.Namespace) -> CalibrationTable:
    from wavernn_trt.calibration.calibrate import calibrate
    from wavernn_trt.scripts.recordings import SecondsBar

    with SecondsBar("calibrating", files, directory.audio, hidden=arguments.quiet) as bar:
        return calibrate(directory, files, threads=arguments.threads, progress=bar.advance, failed=_complain)


def _measure(
    directory: ModelDirectory,
    quantization: Quantization,
    files: Sequence[Path],
    table: CalibrationTable | None,
    arguments: argparse.Namespace,
) -> tuple[LossMeter, Choice]:
    from wavernn_trt.calibration.loss import LossMeter, keep_within, measurements
    from wavernn_trt.scripts.recordings import SecondsBar

    speech = list(_read(directory, files, table))
    runs = measurements(quantization)
    with SecondsBar(
        "measuring", [file for file in files for _ in range(runs)], directory.audio, hidden=arguments.quiet
    ) as bar:
        meter = LossMeter(directory, speech, threads=arguments.threads, progress=bar.advance)
        return meter, keep_within(meter, quantization, arguments.budget)


def _read(directory: ModelDirectory, files: Sequence[Path], table: CalibrationTable | None) -> Iterator[Speech]:
    from wavernn_trt.calibration.errors import CalibrationError
    from wavernn_trt.calibration.score import analyse
    from wavernn_trt.export.model_directory import file_sha256
    from wavernn_trt.runtime.audio import read_audio
    from wavernn_trt.runtime.vocoder import Vocoder

    known = {one.sha256 for one in table.inputs} if table else set()
    found = 0
    with Vocoder.load(directory.path, "onnxruntime", threads=1) as vocoder:
        for file in files:
            try:
                speech = analyse(vocoder, *read_audio(file))
            except Exception as error:  # whatever is wrong with one file, the others can still be measured on
                _complain(file, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
                continue
            if file_sha256(file) in known:
                print(
                    f"{PROGRAM}: warning: {file} is one that was calibrated on: its loss is too small", file=sys.stderr
                )
            found += 1
            yield speech
    if not found:
        raise CalibrationError("none of the recordings to measure on can be used")


def _complain(file: Path, reason: str) -> None:
    print(f"{PROGRAM}: failed: {file}: {reason.removeprefix(f'{file}: ')}", file=sys.stderr)


def _report(
    directory: ModelDirectory,
    quantization: Quantization,
    measured: tuple[LossMeter, Choice] | None,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    from wavernn_trt.export.quantization import product_names

    rounded = quantization.products
    choice = None if measured is None else measured[1]
    return {
        "model": str(directory.path),
        "output": str(arguments.output) if rounded else None,
        "precision": arguments.precision,
        "table": quantization.table,
        "bits": None if measured is None else measured[0].bits,
        "loss": None if choice is None else choice.loss,
        "budget": arguments.budget,
        "products": [
            {
                "name": name,
                "precision": str(rounded[name]) if name in rounded else "fp32",
                "bound": rounded[name].bound if name in rounded else None,
                "loss_alone": None if choice is None else choice.sensitivity.get(name),
            }
            for name in product_names(directory.model)
        ],
        "kept": {"asked": list(arguments.keep), "for_budget": [] if choice is None else list(choice.kept)},
    }


def _table(report: dict[str, Any]) -> Iterator[str]:
    yield f"{'product':<12}  {'precision':<12}  {'bound':>8}  {'loss alone':>10}"
    for product in report["products"]:
        bound = "-" if product["bound"] is None else f"{product['bound']:.3f}"
        loss = "-" if product["loss_alone"] is None else f"{product['loss_alone']:+.4f}"
        why = "  kept for the budget" if product["name"] in report["kept"]["for_budget"] else ""
        yield f"{product['name']:<12}  {product['precision']:<12}  {bound:>8}  {loss:>10}{why}"
    if report["loss"] is not None:
        bits = report["bits"] + report["loss"]
        yield f"{report['loss']:+.4f} bits a sample together: {bits:.4f}, in float32 {report['bits']:.4f}"
    else:
        yield "loss not measured: name recordings that were kept out with --held-out"
    if report["output"]:
        yield f"{report['output']} is made"
