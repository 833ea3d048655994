"""``wavernn-trt calibrate``: how large a model's activations are, for rounding them to eight bits."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import path, positive_integer, seed

if TYPE_CHECKING:
    from wavernn_trt.calibration.table import CalibrationTable
    from wavernn_trt.export.quantization import Grid

DESCRIPTION = """\
Runs a model on speech and measures what its matrix products read: the largest magnitude,
and the bounds to round within. The table is what 'wavernn-trt quantize' takes.
"""
EPILOG = """\
speech:
  recordings   .wav, .flac, .mp3, … of any rate (they are resampled to the model's), or
               folders of them: the model is fed with them. Leave some out, to score what comes of it.
  mels         .npy, .npz or .pt as 'wavernn-trt vocode' takes them, where there are no recordings: the
               model speaks them first, and is fed with what it said.

methods (the table has the bounds of all; quantize takes percentile for int8 and mse for fp8,
unless it is told otherwise):
  minmax       the largest magnitude
  percentile   99.99 per cent of the values are below
  entropy      the least divergence between what was seen and what is left of it
  mse          the least mean squared error

The table depends on the model and the files (and, for mels, --seed) alone, not on the files'
order or --batch. Whatever ends a run, the same command goes on behind the files that are
done: what they had is kept in a hidden file beside the table.

examples:
  wavernn-trt calibrate my-voice some-clips/ -o my-voice.json
  wavernn-trt calibrate my-voice mels/ -o my-voice.json --batch 16
  wavernn-trt quantize my-voice --table my-voice.json --precision int8 -o my-voice-int8

exit codes: 0 all done; 1 done, but some files could not be used; 2 wrong usage, or none could; 130 interrupted
"""
SHOWN: Grid = "int8"
"""The grid whose bounds are printed."""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure what a model's products read, for quantising it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", type=path, metavar="DIR", help="model directory")
    parser.add_argument("speech", nargs="+", type=path, metavar="SPEECH", help="recordings or mels, or folders of them")
    parser.add_argument("-o", "--output", required=True, type=path, metavar="TABLE", help="the table, a .json file")
    parser.add_argument("--overwrite", action="store_true", help="replace a table that is there")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="CPU threads (default: what suits)")
    parser.add_argument("--batch", type=positive_integer, metavar="N", help="files at a time (default: 8)")
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of what the model says of mels (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of the summary")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Calibrates; returns 0, or 1 if some files could not be used.

    Raises:
        ValueError: a mistake in the arguments, before any work is done; or nothing that can be used.
        OSError: the table cannot be written.
    """
    from tqdm import tqdm

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
        raise ValueError(f"{output} is there already; {way_out}")
    files = find_recordings(arguments.speech, mels=True)
    directory = open_model_directory(arguments.model)
    prepare_output(output)
    partial = output.with_name(f".{output.name}.partial")
    failed: list[dict[str, str]] = []

    def note(file: Path, reason: str) -> None:
        failed.append({"input": str(file), "error": reason})
        say(f"failed: {file}: {reason.removeprefix(f'{file}: ')}")

    def say(line: str) -> None:
        tqdm.write(f"{PROGRAM}: {line}", file=sys.stderr)  # above the bar

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
                notice=say,
                partial=partial,
            )
    except KeyboardInterrupt:
        if not partial.exists():
            raise
        raise KeyboardInterrupt(
            f"{partial} has the files that are done; the same command goes on behind them"
        ) from None
    table.write(output)
    partial.unlink(missing_ok=True)
    if arguments.json:
        report = _report(table, directory.audio.sample_rate)
        elapsed = round(time.perf_counter() - started, 3)
        print(
            json.dumps(
                {"model": str(directory.path), "table": str(output), **report, "failed": failed, "elapsed": elapsed},
                indent=1,
            )
        )
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
        bounds = "  ".join(f"{one.bounds[SHOWN][method]:>10.4g}" for method in METHODS)
        yield f"{name:<12}  {one.values:>12}  {one.largest:>10.4g}  {bounds}"
    seconds = sum(one.samples for one in table.inputs) / sample_rate
    yield f"{output}: {len(table.inputs)} files, {seconds:.1f} s; the bounds above are for {SHOWN}"
