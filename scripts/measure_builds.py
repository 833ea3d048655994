"""What builds cost: time, peak memory and plan size of both forms at growing numbers of steps.

``python -m wavernn_trt.scripts.measure_builds`` exports a standard model with random weights, builds it anew each time,
and prints a table; the README's is one of these. The full 1024 unrolled steps take minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from wavernn_trt.scripts.arguments import path, positive_integers
from wavernn_trt.scripts.bench.models import STANDARD, export_random

TARGETS = (80, 86, 89, 120)


def main() -> int:
    """Measures and prints; returns 0."""
    arguments = _parse()
    from wavernn_trt.engines.spec import EngineSpec, Extent, Form
    from wavernn_trt.export.model_directory import open_model_directory

    cases: list[tuple[Form, int]] = [("cell", steps) for steps in arguments.steps]
    cases.append(("sequence", max(arguments.steps)))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        directory = open_model_directory(export_random(arguments.random, Path(folder)))
        for form, steps in cases:
            for precision in arguments.precision.split(","):
                spec = EngineSpec(
                    precision=precision, batch=Extent.of(arguments.batch), steps=steps, form=form, targets=TARGETS
                )
                print(f"building {form} {precision}, {steps} steps", file=sys.stderr)
                rows.append(_measure(directory, spec, Path(folder) / "cache"))
    print("\n".join(_table(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _measure(directory: Any, spec: Any, folder: Path) -> dict[str, Any]:
    from wavernn_trt.engines.build import build_engine
    from wavernn_trt.engines.cache import EngineCache

    cache = EngineCache(folder)
    manifest = build_engine(directory, spec, cache).decoder.manifest
    cache.prune(everything=True)
    return {
        "form": spec.form,
        "precision": spec.precision,
        "steps": spec.steps,
        "batch": str(spec.batch),
        "seconds": manifest.build_seconds,
        "peak_bytes": manifest.peak_bytes,
        "plan_bytes": manifest.plan_bytes,
        "layers": sum(manifest.layers.values()),
    }


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| form | precision | steps | layers | seconds | peak GiB | plan MB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['form']} | {row['precision']} | {row['steps']} | {row['layers']:,} | {row['seconds']:.1f} "
            f"| {row['peak_bytes'] / 2**30:.2f} | {row['plan_bytes'] / 1e6:.1f} |"
        )
    return lines


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.measure_builds", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--random", choices=sorted(STANDARD), default="univoc-896", help="default: univoc-896")
    parser.add_argument("--steps", type=positive_integers, default=(16, 64, 256, 1024), metavar="NUMBERS")
    parser.add_argument("--precision", default="fp16", metavar="NAMES", help="some of fp32,fp16,bf16 (default: fp16)")
    parser.add_argument("--batch", default="8", metavar="N", help="default: 8")
    parser.add_argument("--json", type=path, metavar="F", help="also write the numbers to a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
