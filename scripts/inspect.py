"""``wavernn-trt inspect``: what is in a model directory or a plan, and what TensorRT makes of it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.model_directory import (
    CONDITIONER,
    DECODER,
    MANIFEST,
    ModelDirectory,
    open_model_directory,
    read_manifest,
)
from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.export.quantization import product_names

if TYPE_CHECKING:
    from wavernn_trt.engines.compatibility import CompatibilityReport
    from wavernn_trt.runtime.health.probe import ProbeResult

DESCRIPTION = """\
Prints what is in a model directory: family, sizes, work for a sample, audio settings, files and
their hashes, and the compatibility report: what TensorRT makes of every operator, on which
condition, and each node that breaks one. Exits with 1 if a node does. Of a quantised directory, it
also prints how each product of a step is rounded, and which of them TensorRT finds in eight bits.

Of a plan: its bindings, precisions, targets and plugins, the precision of each product, the layers of
the network it was built from and, where a GPU and its driver are there, those that TensorRT made of
them.
"""
_FLOAT32 = {"grid": "float32", "bound": None, "weights_only": False}
"""Of a product that is not rounded."""
_WITHOUT_ONNX = (
    "not available: node counts and the compatibility report need onnx; "
    "pip install '.[export]' in a clone of the project"
)


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
    parser.add_argument(
        "--backend", default="onnxruntime", metavar="NAME", help="of --probe, as vocode takes it (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints; returns 1 where the compatibility report has violations, or a plan is damaged."""
    if arguments.directory.suffix == ".plan" and not arguments.directory.is_dir():
        if arguments.probe:
            raise ValueError(
                "--probe: found a plan, expected the model directory that it was built from, with --backend"
            )
        return _run_plan(arguments.directory, as_json=arguments.json)
    directory = open_model_directory(arguments.directory)
    reports = _reports(directory)
    values = _values(directory, reports)
    values["quantization"] = _quantization(directory)
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
        _print(directory, values, reports)
        if probed is not None:
            _section(f"probe on {arguments.backend}")
            print(f"  {probed.reason or 'passed'}")
            print(f"  {probed.bits:.4f} bits a sample, expected {probed.expected_bits:.4f}; {probed.seconds:.2f} s")
    damaged = probed is not None and not probed.passed
    return int(damaged or any(report.violations for report in reports.values()))


def _probe(directory: ModelDirectory, backend: str) -> ProbeResult:
    from wavernn_trt.runtime.health.probe import probe
    from wavernn_trt.runtime.vocoder import Vocoder

    with Vocoder.load(directory.path, backend) as vocoder:
        return probe(vocoder)


def _run_plan(plan: Path, *, as_json: bool) -> int:
    from wavernn_trt.engines.cache_entries import read_entry
    from wavernn_trt.engines.plan_layers import LayersUnknownError, plan_layers
    from wavernn_trt.scripts.engines_report import entry_json, print_entry

    entry = read_entry(plan.parent, plan.stem, verify=True)
    if entry is None:
        raise ValueError(f"{plan}: found no plan with its .json beside it; build one with: wavernn-trt build DIR")
    layers: list[str] = []
    unknown = "the plan is not whole"
    if entry.manifest is not None and entry.state == "whole":
        try:
            layers, unknown = plan_layers(entry.plan, entry.manifest), ""
        except LayersUnknownError as error:
            unknown = str(error)
    if as_json:
        values = {**entry_json(entry), "layers_of_plan": layers or None, "layers_unknown": unknown or None}
        json.dump(values, sys.stdout, indent=1)
        print()
        return int(entry.state != "whole")
    print_entry(entry)
    _section("layers of the plan")
    print("\n".join(f"  {layer}" for layer in layers) if layers else f"  not known: {unknown}")
    return int(entry.state != "whole")


def _reports(directory: ModelDirectory) -> dict[str, CompatibilityReport]:
    if importlib.util.find_spec("onnx") is None:
        return {}
    import onnx

    from wavernn_trt.engines.compatibility import compatibility_report

    return {
        name: compatibility_report(
            onnx.load(str(directory.file(name)), load_external_data=False), static=name == DECODER
        )
        for name in (DECODER, CONDITIONER)
    }


def _quantization(directory: ModelDirectory) -> dict[str, Any] | None:
    """How products are rounded, and where onnx is there, what ``decoder.onnx`` has of that."""
    quantization = directory.quantization
    if quantization is None:
        return None
    found: dict[str, str] | None = None
    if importlib.util.find_spec("onnx") is not None:
        import onnx

        from wavernn_trt.engines.graphs import product_weights
        from wavernn_trt.engines.product_precisions import precisions_in_graph

        decoder = onnx.load(str(directory.file(DECODER)), load_external_data=False)
        found = precisions_in_graph(decoder, product_weights(directory))
    products = {}
    for name in product_names(directory.model):
        product = quantization.products.get(name)
        given = {} if found is None else {"decoder": found.get(name)}
        products[name] = {**(dataclasses.asdict(product) if product is not None else _FLOAT32), **given}
    return {"table": quantization.table, "products": products}


def _print_quantization(values: dict[str, Any]) -> None:
    _section("products of a step: as ONNX Runtime rounds them, and in eight bits for TensorRT")
    for name, product in values["products"].items():
        bound = "" if product["bound"] is None else f", activations up to {product['bound']:g}"
        rounded = f"{product['grid']}{' weights' if product['weights_only'] else ''}{bound}"
        decoder = product.get("decoder", "not known without onnx")
        eight = decoder if decoder is None or decoder not in PRECISIONS else "no: the engine's precision"
        _row(name, f"{rounded:<36} {eight}")
    _row("calibration table", f"SHA-256 {values['table'] or 'not recorded'}")


def _values(directory: ModelDirectory, reports: dict[str, CompatibilityReport]) -> dict[str, Any]:
    model, audio = directory.model, directory.audio
    return {
        "directory": str(directory.path),
        "source": directory.source,
        "model": dataclasses.asdict(model),
        "audio": dataclasses.asdict(audio),
        "decoder": dataclasses.asdict(directory.decoder),
        "work": {
            "mflop_per_sample": 2 * model.multiply_adds / 1e6,
            "weight_bytes_per_sample_float32": 4 * model.multiply_adds,
            "weight_bytes_per_sample_float16": 2 * model.multiply_adds,
            "gflop_per_second_of_speech": 2 * model.multiply_adds * audio.sample_rate / 1e9,
        },
        "files": read_manifest(directory.path / MANIFEST),
        "nodes": {name: {row.operator: row.count for row in report.operators} for name, report in reports.items()},
        "compatibility": {name: dataclasses.asdict(report) for name, report in reports.items()} or _WITHOUT_ONNX,
    }


def _print(directory: ModelDirectory, values: dict[str, Any], reports: dict[str, CompatibilityReport]) -> None:
    model, audio, decoder, work = directory.model, directory.audio, directory.decoder, values["work"]
    source = directory.source
    _section("model")
    _row("family", f"{model.family}, {model.output}, {model.outputs} outputs{', mu-law' if model.mu_law else ''}")
    _row("recurrent", f"{model.layers} GRU of {model.hidden_size}, input {' and '.join(map(str, model.input_sizes))}")
    _row("fully connected", ", ".join(map(str, (*model.fc_sizes, model.outputs))))
    _row("conditioning", ", ".join(f"{group.columns} columns {group.expansion}" for group in model.groups))
    _row("temperature", f"{model.temperature:g}")
    _row("parameters", f"{source['parameters']:,}" if "parameters" in source else "not recorded")
    _row("work a sample", f"{work['mflop_per_sample']:.3f} MFLOP")
    _row("weights a sample", f"{work['weight_bytes_per_sample_float32']:,} bytes in float32, half in float16")
    _row("made from", f"{source.get('checkpoint', 'unknown')} by {source.get('exporter', 'unknown')}")
    _row("", f"SHA-256 {source.get('sha256', 'unknown')}")
    _section("decoder")
    _row("unrolled", f"{decoder.steps} steps, batch {decoder.batch}, {decoder.window} rows of conditioning")
    for name, report in reports.items():
        counts = Counter({row.operator: row.count for row in report.operators})
        _row(name, f"{sum(counts.values())} nodes; " + ", ".join(f"{n} {op}" for op, n in counts.most_common(3)))
    if values["quantization"] is not None:
        _print_quantization(values["quantization"])
    _section("audio")
    for field in dataclasses.fields(audio):
        value = getattr(audio, field.name)
        _row(field.name, "none" if value is None else value)
    _section("files")
    for name, entry in values["files"].items():
        _row(name, f"{entry['bytes']:>12,} bytes  {entry['sha256']}", 24)
    if not reports:
        print(f"\n{_WITHOUT_ONNX}")
    for name, report in reports.items():
        _print_report(name, report)


def _print_report(name: str, report: CompatibilityReport) -> None:
    _section(f"compatibility with TensorRT: {name}")
    width = max(len(row.layer) for row in report.operators)
    print(f"  {'operator':<20} {'nodes':>6}  {'TensorRT layer':<{width}}  constraint")
    for row in report.operators:
        verdict = "" if not row.violations else f"  VIOLATED {row.violations} times"
        print(f"  {row.operator:<20} {row.count:>6}  {row.layer:<{width}}  {row.constraint or '-'}{verdict}")
    print(f"  {len(report.violations) or 'no'} violation{'' if len(report.violations) == 1 else 's'}")
    for violation in report.violations:
        print(f"    {violation.node} ({violation.operator}): {violation.reason}")


def _section(title: str) -> None:
    print(f"\n{title}")


def _row(name: str, value: object, width: int = 20) -> None:
    print(f"  {name:<{width}} {value}")
