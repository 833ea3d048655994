"""``wavernn-trt inspect``: what is in a model directory or a plan, and what TensorRT makes of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.scripts.arguments import path
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
Prints what is in a model directory: family, sizes, work for a sample, audio settings, files and
their hashes, and the compatibility report: what TensorRT makes of every operator, on which
condition, and each node that breaks one. Exits with 1 if a node does. Of a quantised directory, it
also prints how each product of a step is rounded, and which of them TensorRT finds in eight bits.
With --lint, polygraphy also runs each node of both graphs, and names those that fail (exit 1); of
1024 unrolled steps that takes some ten seconds.

With --mel and --recording, it compares that mel spectrogram with the model's own features of the
recording, instead of printing the above, and names what differs: transposed, batch axis, hop length,
sample rate, window, fmin, fmax, mel filters, pre-emphasis, log base, dB reference or normalisation
range; and how to convert it, where it can be. Exits with 1 if something differs. With --mel alone,
shape and range are checked.

Of a plan: its bindings, precisions, targets and plugins, the precision of each product, the layers of
the network it was built from and, where a GPU and its driver are there, those that TensorRT made of
them.
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what is in a model directory, and what TensorRT would refuse, or what is in a plan",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="a model directory, as 'wavernn-trt export' makes it, or a .plan, as 'wavernn-trt build' does",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also have the model speak the short mel that came with it, and compare; exits with 1 if it is damaged",
    )
    parser.add_argument("--lint", action="store_true", help="also run polygraphy's lint over both graphs")
    parser.add_argument("--mel", type=path, metavar="M", help="a mel (.npy, .npz, .pt) to compare with the model")
    parser.add_argument("--recording", type=path, metavar="R", help="the recording that the mel was computed from")
    parser.add_argument(
        "--backend", default="onnxruntime", metavar="NAME", help="of --probe, as vocode takes it (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints; returns 1 where the report has violations, a plan is damaged, or a mel does not fit."""
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
        figures = dataclasses.asdict(probed).items()  # those that were not reached are NaN, which JSON has not
        values["probe"] = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures
        }
        values["probe"]["backend"] = arguments.backend
    if arguments.json:
        json.dump(values, sys.stdout, indent=1)
        print()
    else:
        print_directory(directory, values, reports)
        print_lint(linted)
        if probed is not None:
            section(f"probe on {arguments.backend}")
            print(f"  {probed.reason or 'passed'}")
            print(f"  {probed.bits:.4f} bits a sample, expected {probed.expected_bits:.4f}; {probed.seconds:.2f} s")
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
    unknown = "the plan is not whole"
    if entry.record is not None and entry.state == "whole":
        try:
            layers, unknown = plan_layers(entry.plan, entry.record), ""
        except LayersUnknownError as error:
            unknown = str(error)
    if as_json:
        values = {**entry_json(entry), "layers_of_plan": layers or None, "layers_unknown": unknown or None}
        json.dump(values, sys.stdout, indent=1)
        print()
        return int(entry.state != "whole")
    print_entry(entry)
    section("layers of the plan")
    print("\n".join(f"  {layer}" for layer in layers) if layers else f"  not known: {unknown}")
    return int(entry.state != "whole")
