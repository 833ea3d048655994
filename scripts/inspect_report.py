"""The report on a model directory, as JSON and as text: sizes, operations, files and TensorRT compatibility."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.model_directory import (
    CONDITIONER,
    DECODER,
    MANIFEST,
    ModelDirectory,
    ModelDirectoryError,
    read_manifest,
)
from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.export.quantization import product_names
from wavernn_trt.scripts.extras import need

if TYPE_CHECKING:
    from wavernn_trt.engines.compatibility import CompatibilityReport

_FLOAT32 = {"grid": "float32", "bound": None, "weights_only": False}
"""JSON of a product that is not quantised."""
_POLYGRAPHY = "from polygraphy.tools import main; raise SystemExit(main())"
_WITHOUT_ONNX = (
    "not available: node counts and the compatibility report need onnx; "
    "pip install '.[export]' in a clone of the project"
)


def compatibility_reports(directory: ModelDirectory) -> dict[str, CompatibilityReport]:
    """Checks the directory's two graphs for TensorRT; returns reports by file name, none if onnx is not installed."""
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


def lint(directory: ModelDirectory) -> dict[str, list[dict[str, Any]]]:
    """Runs ``polygraphy check lint`` on both graphs; returns findings by file name: level, source, message, nodes.

    It runs every node with ONNX Runtime on random inputs. The tool has only a command line, so it runs in a process of
    its own.

    Raises:
        ValueError: polygraphy is not installed, or wrote no report.
    """
    need("--lint", ("polygraphy",), extra="export")
    findings = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        for name in (DECODER, CONDITIONER):
            report.unlink(missing_ok=True)
            command = [sys.executable, "-c", _POLYGRAPHY, "check", "lint", str(directory.file(name)), "-o", str(report)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if not report.is_file():
                raise ValueError(f"--lint: polygraphy wrote no report on {name}: {ended.stderr[-2000:].strip()}")
            findings[name] = json.loads(report.read_text())["lint_entries"]
    return findings


def print_lint(findings: dict[str, list[dict[str, Any]]]) -> None:
    """Prints the findings of `lint`."""
    for name, entries in findings.items():
        section(f"lint by polygraphy: {name}")
        for entry in entries:
            print(f"  {entry['level']}: {', '.join(entry.get('nodes', ['the graph']))}: {entry['message']}")
        if not entries:
            print("  nothing found")


def _quantization(directory: ModelDirectory) -> dict[str, Any] | None:
    """Returns how products are quantised and, if onnx is installed, their precisions in ``decoder.onnx``."""
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
    section("products of a step: quantisation in ONNX Runtime, and whether TensorRT runs them in 8 bits")
    for name, product in values["products"].items():
        bound = "" if product["bound"] is None else f", activations up to {product['bound']:g}"
        rounded = f"{product['grid']}{' weights' if product['weights_only'] else ''}{bound}"
        decoder = product.get("decoder", "not known without onnx")
        eight = decoder if decoder is None or decoder not in PRECISIONS else "no: the engine's precision"
        _row(name, f"{rounded:<36} {eight}")
    _row("calibration table", f"SHA-256 {values['table'] or 'not recorded'}")


def _native(directory: ModelDirectory) -> dict[str, Any]:
    """Returns whether the native decoder runs the model on this machine, how, and else why not."""
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.executors.native_executor import native_decoder

    try:
        decoder, precision = native_decoder(directory)
    except (VocoderError, ModelDirectoryError) as error:
        return {"instructions": None, "precision": None, "reason": str(error)}
    return {"instructions": decoder.path, "precision": precision, "reason": None}


def directory_values(directory: ModelDirectory, reports: dict[str, CompatibilityReport]) -> dict[str, Any]:
    """Returns the whole report as JSON values."""
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
        "native": _native(directory),
        "quantization": _quantization(directory),
        "nodes": {name: {row.operator: row.count for row in report.operators} for name, report in reports.items()},
        "compatibility": {name: dataclasses.asdict(report) for name, report in reports.items()} or _WITHOUT_ONNX,
    }


def print_directory(directory: ModelDirectory, values: dict[str, Any], reports: dict[str, CompatibilityReport]) -> None:
    """Prints the values of `directory_values`."""
    model, audio, decoder, work = directory.model, directory.audio, directory.decoder, values["work"]
    source = directory.source
    section("model")
    _row("family", f"{model.family}, {model.output}, {model.outputs} outputs{', mu-law' if model.mu_law else ''}")
    _row("recurrent", f"{model.layers} GRU of {model.hidden_size}, input {' and '.join(map(str, model.input_sizes))}")
    _row("fully connected", ", ".join(map(str, (*model.fc_sizes, model.outputs))))
    _row("conditioning", ", ".join(f"{group.columns} columns {group.expansion}" for group in model.groups))
    _row("temperature", f"{model.temperature:g}")
    _row("parameters", f"{source['parameters']:,}" if "parameters" in source else "not recorded")
    _row("work per sample", f"{work['mflop_per_sample']:.3f} MFLOP")
    _row("weights per sample", f"{work['weight_bytes_per_sample_float32']:,} bytes in float32, half in float16")
    _row("exported from", f"{source.get('checkpoint', 'unknown')} by {source.get('exporter', 'unknown')}")
    _row("", f"SHA-256 {source.get('sha256', 'unknown')}")
    section("decoder")
    _row("unrolled", f"{decoder.steps} steps, batch {decoder.batch}, {decoder.window} rows of conditioning")
    native = values["native"]
    _row("on this CPU", native["reason"] or f"native, {native['precision']}, with {native['instructions']}")
    for name, report in reports.items():
        counts = Counter({row.operator: row.count for row in report.operators})
        _row(name, f"{sum(counts.values())} nodes; " + ", ".join(f"{n} {op}" for op, n in counts.most_common(3)))
    if values["quantization"] is not None:
        _print_quantization(values["quantization"])
    section("audio")
    for field in dataclasses.fields(audio):
        value = getattr(audio, field.name)
        _row(field.name, "none" if value is None else value)
    section("files")
    for name, entry in values["files"].items():
        _row(name, f"{entry['bytes']:>12,} bytes  {entry['sha256']}", 24)
    if not reports:
        print(f"\n{_WITHOUT_ONNX}")
    for name, report in reports.items():
        _print_compatibility(name, report)


def _print_compatibility(name: str, report: CompatibilityReport) -> None:
    section(f"compatibility with TensorRT: {name}")
    width = max(len(row.layer) for row in report.operators)
    print(f"  {'operator':<20} {'nodes':>6}  {'TensorRT layer':<{width}}  constraint")
    for row in report.operators:
        verdict = "" if not row.violations else f"  VIOLATED {row.violations} times"
        print(f"  {row.operator:<20} {row.count:>6}  {row.layer:<{width}}  {row.constraint or '-'}{verdict}")
    print(f"  {len(report.violations) or 'no'} violation{'' if len(report.violations) == 1 else 's'}")
    for violation in report.violations:
        print(f"    {violation.node} ({violation.operator}): {violation.reason}")


def section(title: str) -> None:
    """Prints a heading."""
    print(f"\n{title}")


def _row(name: str, value: object, width: int = 20) -> None:
    print(f"  {name:<{width}} {value}")
