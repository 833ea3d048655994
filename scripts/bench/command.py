"""``wavernn-trt bench``: measures or reads a report, then prints, compares, draws and writes it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.runtime.loaded_model import shipped_voice
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.bench.backends import BACKENDS, ON_A_GPU
from wavernn_trt.scripts.bench.compare import compare
from wavernn_trt.scripts.bench.load import measure_load
from wavernn_trt.scripts.bench.models import export_random
from wavernn_trt.scripts.bench.plot import check_drawing, draw
from wavernn_trt.scripts.bench.report import lay_out, lay_out_comparison
from wavernn_trt.scripts.bench.report_file import add_costs, damaged, read_report
from wavernn_trt.scripts.bench.speed import measure_speed

_CURRENCY = "USD"
_MEANT_FOR = {
    "repeats": ("speed", "mixed"),
    "seconds": ("speed", "stream", "mixed"),
    "plot": ("speed",),
    "peers": ("speed",),
    "price": ("speed", "batch"),
    "compare": ("speed", "batch"),
    "lanes": ("batch", "stream", "mixed"),
    "mels": ("batch", "stream", "mixed"),
    "lengths": ("batch", "stream", "mixed"),
    "utterances": ("batch",),
    "padded_groups": ("batch",),
    "verify": ("batch",),
    "listeners": ("stream", "mixed"),
    "buffer": ("stream", "mixed"),
    "openings": ("stream",),
}
"""Options that apply only to some scenarios."""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        The exit code: 1 if no backend could be measured, an utterance failed or differs from the same utterance alone,
        or a row is slower than in the other report; else 0.

    Raises:
        ValueError: wrong arguments, or reports that cannot be compared.
    """
    _check(arguments)
    old = None if arguments.compare is None else read_report(arguments.compare, "--compare")
    if old is not None and arguments.source is None and old["scenario"] != arguments.scenario:
        found = f"a report of --scenario {old['scenario']}"
        raise ValueError(f"--compare: {arguments.compare}: found {found}, expected one of {arguments.scenario}")
    if arguments.source is None:
        report, sound = _measure(arguments)
    else:
        report, sound = read_report(arguments.source, "--from"), True
        _check_scenario(arguments, report["scenario"])
    if arguments.price is not None:
        add_costs(report, arguments.price, arguments.currency or _CURRENCY)
    if arguments.source is None or arguments.price is not None:
        _print(lay_out(report))
    slower = False
    try:
        if old is not None:
            slower = _compare(old, report, arguments)
    finally:  # keeps the measurements even if they cannot be compared
        _write(report, arguments)
    if not sound:
        measured = any(result["subject"] in BACKENDS for result in report["results"])
        what = "an utterance failed, or differs when decoded alone" if measured else "no backend could be measured"
        print(f"{PROGRAM}: error: {what}; see the report", file=sys.stderr)
    if slower:
        print(f"{PROGRAM}: error: slower than {arguments.compare}; see the table", file=sys.stderr)
    return int(slower or not sound)


def _measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Returns the report, and whether nothing failed."""
    report = _silent if arguments.quiet else _show
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or shipped_voice()
        if arguments.random:
            report(f"exporting {arguments.random} with random weights")
            path = export_random(arguments.random, Path(folder))
        if arguments.scenario == "speed":
            measured = measure_speed(arguments, path, report)
            sound = any(result["subject"] in BACKENDS for result in measured["results"])
        else:
            measured = measure_load(arguments, path, report)
            sound = bool(measured["results"]) and all(result["sound"] for result in measured["results"])
    report("")
    measured["model"]["random"] = arguments.random
    return measured, sound


def _compare(old: dict[str, Any], report: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Adds the comparison to the report; returns whether a row is slower.

    Raises:
        ValueError: no row could be judged.
    """
    try:
        comparison = compare(old, report)
    except (KeyError, TypeError) as error:
        raise damaged(arguments.compare, "--compare", error) from None
    report["comparison"] = {"with": arguments.compare.name, **comparison.describe()}
    _print(lay_out_comparison(comparison, arguments.compare.name))
    if not comparison.judged:
        raise ValueError("--compare: no row of the two reports could be judged; the table says why")
    return comparison.slower


def _write(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        text = json.dumps(report, indent=1) + "\n"
        if arguments.json.exists() and not arguments.json.is_file():
            arguments.json.write_text(text)  # a pipe
        else:
            write_atomic(arguments.json.resolve(), text.encode())
    if arguments.plot is not None:
        draw(report, arguments.plot, arguments.source)


def _print(lines: Iterable[str]) -> None:
    print("\n".join(lines))


def _show(line: str) -> None:
    """Shows progress on stderr; on a terminal it overwrites one line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    """Shows nothing."""


def _check(arguments: argparse.Namespace) -> None:
    """Rejects contradictory options before anything is measured."""
    if arguments.source is None:
        _check_scenario(arguments, arguments.scenario)
    elif arguments.plot is None and arguments.compare is None and arguments.price is None:
        raise ValueError("--from: found it without --plot, --compare or --price, expected what to do with the report")
    if arguments.currency is not None and arguments.price is None:
        raise ValueError("--currency: found it without --price, expected the price of an hour")
    on_gpu = any(backend in ON_A_GPU for backend in arguments.backend or ())
    if arguments.precision is not None and not on_gpu and "cuda-graphs" not in (arguments.peers or ()):
        raise ValueError(
            f"--precision: found {arguments.precision} with backends that have one precision, expected one on a GPU"
        )
    if arguments.padded_groups:
        print(
            f"{PROGRAM}: warning: --padded-groups has no effect: fixed batches, padded to the longest utterance, are "
            "no longer measured",
            file=sys.stderr,
        )
    if arguments.json is not None:
        if not arguments.json.parent.is_dir():
            raise ValueError(f"--json: {arguments.json.parent} is not a folder")
        if arguments.json.is_dir():
            raise ValueError(f"--json: found the folder {arguments.json}, expected a file's name")
    if arguments.plot is not None:
        check_drawing(arguments.plot)


def _check_scenario(arguments: argparse.Namespace, scenario: str) -> None:
    for name, scenarios in _MEANT_FOR.items():
        if getattr(arguments, name) is not None and scenario not in scenarios:
            option = f"--{name.replace('_', '-')}"
            wanted = " or ".join(f"--scenario {one}" for one in scenarios)
            raise ValueError(f"{option}: found it with --scenario {scenario}, expected {wanted}")
