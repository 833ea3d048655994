"""``wavernn-trt calibrate``: measures the ranges of a model's activations, for quantisation to 8 bits."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts.arguments import add_command, path, positive_integer, seed

if TYPE_CHECKING:
    from wavernn_trt.calibration.table import CalibrationTable
    from wavernn_trt.export.quantization import Grid

DESCRIPTION = """\
Runs a model on speech and measures the inputs (activations) of its matrix products: their
largest magnitude, and the bounds to quantise them within. Writes a table for 'wavernn-trt quantize'.
"""
EPILOG = """\
speech:
  recordings   .wav, .flac, .mp3, … of any sample rate (they are resampled to the model's), or
               folders of them. The model runs teacher-forced on them. Keep some recordings out, to
               measure the quantised model on.
  mels         .npy, .npz or .pt as for 'wavernn-trt vocode', if there are no recordings: the model
               vocodes them first, and then runs teacher-forced on its own output.

methods (the table has the bounds of all four; the defaults of quantize are percentile for int8 and
mse for fp8):
  minmax       the largest magnitude
  percentile   99.99 per cent of the values are below
  entropy      the least divergence between the distributions before and after quantisation
  mse          the least mean squared error

The table depends only on the model and the files (and, for mels, on --seed), not on the order of
the files or on --batch. An interrupted run keeps its results in a hidden file beside the table; the
same command then continues after the files that are done.

examples:
  wavernn-trt calibrate my-voice some-clips/ -o my-voice.json
  wavernn-trt calibrate my-voice mels/ -o my-voice.json --batch 16
  wavernn-trt quantize my-voice --table my-voice.json --precision int8 -o my-voice-int8

exit codes: 0 success; 1 done, but some files could not be used; 2 wrong usage, or no file could be
used; 130 interrupted
"""
_SHOWN: Grid = "int8"
"""The grid whose bounds are printed."""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "calibrate", run, DESCRIPTION, EPILOG)
    parser.add_argument("model", type=path, metavar="DIR", help="model directory")
    parser.add_argument("speech", nargs="+", type=path, metavar="SPEECH", help="recordings or mels, or folders of them")
    parser.add_argument(
        "-o", "--output", required=True, type=path, metavar="TABLE", help="table to write, a .json file"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing table")
    parser.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads (default: chosen for the machine)"
    )
    parser.add_argument("--batch", type=positive_integer, metavar="N", help="files decoded together (default: 8)")
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="random seed for vocoding mels (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Writes the table; returns 0, or 1 if some files could not be used.

    Raises:
        ValueError: wrong arguments, before any work is done; or no file could be used.
        OSError: the table cannot be written.
    """
    from wavernn_trt.scripts.extras import need_onnx

    need_onnx("calibrate")
    from wavernn_trt.calibration.calibrate import calibrate
    from wavernn_trt.export.model_directory import open_model_directory
    from wavernn_trt.runtime.files.output_files import prepare_output
    from wavernn_trt.scripts.progress import file_bar
    from wavernn_trt.scripts.recordings import find_recordings

    output: Path = arguments.output
    if output.exists() and not (arguments.overwrite and output.is_file()):
        way_out = "--overwrite replaces it" if output.is_file() else "name a file"
        raise ValueError(f"{output} already exists; {way_out}")
    files = find_recordings(arguments.speech, mels=True)
    directory = open_model_directory(arguments.model)
    prepare_output(output)
    partial = output.with_name(f".{output.name}.partial")
    failed: list[dict[str, str]] = []

    def note(file: Path, reason: str) -> None:
        failed.append({"input": str(file), "error": reason})
        bar.notice(f"failed: {file}: {reason.removeprefix(f'{file}: ')}")

    started = time.perf_counter()
    try:
        with file_bar("calibrating", files, directory.audio, hidden=arguments.quiet) as bar:
            table = calibrate(
                directory,
                files,
                seed=arguments.seed,
                batch=arguments.batch,
                threads=arguments.threads,
                progress=bar.decoded,
                failed=note,
                notice=bar.notice,
                partial=partial,
            )
    except KeyboardInterrupt:
        if not partial.exists():
            raise
        raise KeyboardInterrupt(
            f"{partial} keeps the results so far; the same command continues after the files that are done"
        ) from None
    table.write(output)
    partial.unlink(missing_ok=True)
    if arguments.json:
        report = {
            "model": str(directory.path),
            "table": str(output),
            **_report(table, directory.audio.sample_rate),
            "failed": failed,
            "elapsed": round(time.perf_counter() - started, 3),
        }
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(_summary(table, output, directory.audio.sample_rate)))
    return 1 if failed else 0


def _report(table: CalibrationTable, sample_rate: int) -> dict[str, Any]:
    samples = sum(one.samples for one in table.inputs)
    return {
        "sha256": table.sha256,
        "files": [{"name": one.name, "sha256": one.sha256, "samples": one.samples} for one in table.inputs],
        "seconds": samples / sample_rate,
        "products": {
            name: {"values": one.values, "largest": one.largest, "bounds": one.bounds}
            for name, one in table.ranges.items()
        },
    }


def _summary(table: CalibrationTable, output: Path, sample_rate: int) -> Iterator[str]:
    from wavernn_trt.calibration.table import METHODS

    yield f"{'product':<12}  {'values':>12}  {'largest':>10}  " + "  ".join(f"{name:>10}" for name in METHODS)
    for name, one in table.ranges.items():
        bounds = "  ".join(f"{one.bounds[_SHOWN][method]:>10.4g}" for method in METHODS)
        yield f"{name:<12}  {one.values:>12}  {one.largest:>10.4g}  {bounds}"
    seconds = sum(one.samples for one in table.inputs) / sample_rate
    yield f"{output}: {len(table.inputs)} files, {seconds:.1f} s; the bounds above are for {_SHOWN}"
