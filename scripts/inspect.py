"""``wavernn-trt inspect``: shows and checks a model directory, a TensorRT plan or a mel."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.scripts.arguments import add_command, path
from wavernn_trt.scripts.inspect_mel import inspect_mel
from wavernn_trt.scripts.inspect_report import (
    compatibility_reports,
    directory_values,
    lint,
    print_directory,
    print_lint,
    section,
)

if TYPE_CHECKING:
    from wavernn_trt.runtime.health.probe import ProbeResult

DESCRIPTION = """\
Shows what is in a model directory or a TensorRT plan, or compares a mel spectrogram with a model.

DIR, a model directory: prints family, sizes, operations per sample, audio settings, files with their
hashes, and a compatibility report: the TensorRT layer of each ONNX operator, its constraints, and the
nodes that violate them (then exits with 1). For a quantised directory, also prints how each matrix
product is quantised and which products run in 8 bits in TensorRT. With --lint, polygraphy runs every
node of both graphs and reports those that fail (exit 1); this takes about ten seconds for 1024 steps.

DIR with --mel and --recording: compares the mel spectrogram with the model's own features of the
recording, prints what differs (transposed, batch axis, hop length, sample rate, window, fmin, fmax,
mel filters, pre-emphasis, log base, dB reference, normalisation range) and how to convert it, if
possible. Exits with 1 if something differs. With --mel alone, checks its shape and range.

FILE.plan, a TensorRT plan: prints its bindings, precisions, targets and plugins, the precision of each
product and the layers of the network; on a machine with the GPU, also the layers after TensorRT's
optimisation.
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "inspect", run, DESCRIPTION)
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="a model directory, written by 'wavernn-trt export', or a .plan file, built by 'wavernn-trt build'",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also run the model on its test mel and compare with the stored reference; exits with 1 if it is damaged",
    )
    parser.add_argument("--lint", action="store_true", help="also run 'polygraphy check lint' on both graphs")
    parser.add_argument("--mel", type=path, metavar="M", help="mel (.npy, .npz, .pt) to compare with the model")
    parser.add_argument("--recording", type=path, metavar="R", help="recording that the mel was computed from")
    parser.add_argument(
        "--backend", default="onnxruntime", metavar="NAME", help="backend for --probe (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; returns 1 if it has violations, a plan is damaged, or a mel does not fit."""
    if arguments.mel is not None or arguments.recording is not None:
        for name in ("probe", "lint"):
            if getattr(arguments, name):
                raise ValueError(f"--{name}: found it together with --mel or --recording; run them one after the other")
        return inspect_mel(arguments.directory, arguments.mel, arguments.recording, as_json=arguments.json)
    if arguments.directory.suffix == ".plan" and not arguments.directory.is_dir():
        for name, way in (("probe", ", with --backend"), ("lint", "")):
            if getattr(arguments, name):
                raise ValueError(f"--{name}: found a plan, expected the model directory that it was built from{way}")
        return _run_plan(arguments.directory, as_json=arguments.json)
    directory = open_model_directory(arguments.directory)
    reports = compatibility_reports(directory)
    values = directory_values(directory, reports)
    linted = lint(directory) if arguments.lint else {}
    if arguments.lint:
        values["lint"] = linted
    probed = _probe(directory, arguments.backend) if arguments.probe else None
    if probed is not None:
        figures = dataclasses.asdict(probed).items()  # NaN, if not measured, becomes null in JSON
        values["probe"] = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures
        }
        values["probe"]["backend"] = arguments.backend
    if arguments.json:
        print(json.dumps(values, indent=1))
    else:
        print_directory(directory, values, reports)
        print_lint(linted)
        if probed is not None:
            section(f"probe on {arguments.backend}")
            print(f"  {probed.reason or 'passed'}")
            print(f"  {probed.bits:.4f} bits per sample, expected {probed.expected_bits:.4f}; {probed.seconds:.2f} s")
    damaged = probed is not None and not probed.passed
    faulty = any(finding["level"] != "warning" for findings in linted.values() for finding in findings)
    return int(damaged or faulty or any(report.violations for report in reports.values()))


def _probe(directory: ModelDirectory, backend: str) -> ProbeResult:
    from wavernn_trt.runtime.health.probe import probe
    from wavernn_trt.runtime.vocoder import Vocoder

    with Vocoder.load(directory.path, backend) as vocoder:
        return probe(vocoder)


def _run_plan(plan: Path, *, as_json: bool) -> int:
    from wavernn_trt.engines.cache_entries import read_entry
    from wavernn_trt.engines.tensorrt_module import LayersUnknownError, plan_layers
    from wavernn_trt.scripts.engines_report import entry_json, print_entry

    entry = read_entry(plan.parent, plan.stem, verify=True)
    if entry is None:
        raise ValueError(f"{plan}: found no plan with its .json beside it; build one with: wavernn-trt build DIR")
    layers: list[str] = []
    unknown = "the plan is damaged"
    if entry.record is not None and entry.state == "whole":
        try:
            layers, unknown = plan_layers(entry.plan, entry.record), ""
        except LayersUnknownError as error:
            unknown = str(error)
    if as_json:
        values = {**entry_json(entry), "layers_of_plan": layers or None, "layers_unknown": unknown or None}
        print(json.dumps(values, indent=1))
        return int(entry.state != "whole")
    print_entry(entry)
    section("layers of the plan")
    print("\n".join(f"  {layer}" for layer in layers) if layers else f"  not known: {unknown}")
    return int(entry.state != "whole")
