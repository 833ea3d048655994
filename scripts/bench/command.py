"""``wavernn-trt bench``: how fast a model runs on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.bench import options
from wavernn_trt.scripts.bench.names import BACKENDS, ON_CPU
from wavernn_trt.scripts.bench.progress import say, silent

_CURRENCY = "USD"
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    options.add_parser(subparsers).set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures, or reads what was measured, and prints.

    Returns:
        0; or 1 where no backend could be measured, an utterance failed or differs from the same utterance alone, or
        something became slower.

    Raises:
        ValueError: a mistake in the arguments, or reports that cannot be compared.
    """
    _check(arguments)
    old = _read(arguments.compare, "--compare")
    if old is not None and arguments.source is None and old["scenario"] != arguments.scenario:
        found = f"a report of --scenario {old['scenario']}"
        raise ValueError(f"--compare: {arguments.compare}: found {found}, expected one of {arguments.scenario}")
    if arguments.source is None:
        report, sound = _measure(arguments)
    else:
        report, sound = _read(arguments.source, "--from"), True
        _check_scenario(arguments, report["scenario"])
    if arguments.price is not None:
        from wavernn_trt.scripts.bench.cost import add_costs

        add_costs(report, arguments.price, arguments.currency or _CURRENCY)
    if arguments.source is None or arguments.price is not None:
        _print(_lay_out(report))
    slower = False
    try:
        if old is not None:
            slower = _compare(old, report, arguments)
    finally:  # what was measured is kept, even where it cannot be compared
        _write(report, arguments)
    if not sound:
        spoken = any(result["subject"] in BACKENDS for result in report["results"])
        what = "not everything was spoken, or not as it is alone" if spoken else "no backend could be measured"
        print(f"{PROGRAM}: error: {what}; see the report", file=sys.stderr)
    if slower:
        print(f"{PROGRAM}: error: slower than {arguments.compare}; see the table", file=sys.stderr)
    return int(slower or not sound)


def _measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The report, and whether all is well in it."""
    numpy_limited = arguments.threads is not None and _limit_numpy(arguments.threads)
    report = silent if arguments.quiet else say
    with tempfile.TemporaryDirectory() as folder:
        path = _model(arguments, Path(folder))
        if arguments.scenario == "speed":
            from wavernn_trt.scripts.bench.speed import measure_speed

            measured = measure_speed(arguments, path, report, numpy_limited=numpy_limited)
            sound = any(result["subject"] in BACKENDS for result in measured["results"])
        else:
            from wavernn_trt.scripts.bench.scenarios import is_sound, measure_scenario

            measured = measure_scenario(arguments, path, report)
            sound = is_sound(measured)
    report("")
    measured["model"]["random"] = arguments.random
    return measured, sound


def _model(arguments: argparse.Namespace, folder: Path) -> Path:
    """The model directory, made first if its weights are to be random."""
    from wavernn_trt.runtime.vocoder import shipped_voice

    if not arguments.random:
        return arguments.model or shipped_voice()
    from wavernn_trt.scripts.bench.models import export_random

    if not arguments.quiet:
        say(f"exporting {arguments.random} with random weights")
    return export_random(arguments.random, folder)


def _read(file: Path | None, option: str) -> Any:
    """A report, or ``None`` where none was named."""
    if file is None:
        return None
    from wavernn_trt.scripts.bench.report_file import read_report

    return read_report(file, option)


def _lay_out(report: dict[str, Any]) -> Iterable[str]:
    if report["scenario"] == "speed":
        from wavernn_trt.scripts.bench.speed_report import lay_out

        return lay_out(report)
    from wavernn_trt.scripts.bench.scenario_report import lay_out_scenario

    return lay_out_scenario(report)


def _compare(old: dict[str, Any], report: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether something is slower; adds the comparison to the report.

    Raises:
        ValueError: nothing can be said.
    """
    from wavernn_trt.scripts.bench.compare import compare
    from wavernn_trt.scripts.bench.compare_report import lay_out_comparison
    from wavernn_trt.scripts.bench.report_file import damaged

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
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plot is not None:
        from wavernn_trt.scripts.bench.plot import draw

        draw(report, arguments.plot, arguments.source)


def _print(lines: Iterable[str]) -> None:
    print("\n".join(lines))


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot be meant, before hours of work."""
    if arguments.source is None:
        _check_scenario(arguments, arguments.scenario)
    elif arguments.plot is None and arguments.compare is None and arguments.price is None:
        raise ValueError("--from: found it without --plot, --compare or --price, expected what to do with the report")
    if arguments.currency is not None and arguments.price is None:
        raise ValueError("--currency: found it without --price, expected the price of an hour")
    on_cpu = arguments.backend is None or set(arguments.backend) <= set(ON_CPU)
    if arguments.precision is not None and on_cpu and "cuda-graphs" not in (arguments.peers or ()):
        raise ValueError(
            f"--precision: found {arguments.precision} with backends that have one precision, expected one on a GPU"
        )
    if arguments.json is not None:
        if not arguments.json.parent.is_dir():
            raise ValueError(f"--json: {arguments.json.parent} is not a folder")
        if arguments.json.is_dir():
            raise ValueError(f"--json: found the folder {arguments.json}, expected a file's name")
    if arguments.plot is not None:
        from wavernn_trt.scripts.bench.plot import check_drawing

        check_drawing(arguments.plot)


def _check_scenario(arguments: argparse.Namespace, scenario: str) -> None:
    for name, scenarios in options.MEANT_FOR.items():
        if getattr(arguments, name) is not None and scenario not in scenarios:
            option = f"--{name.replace('_', '-')}"
            wanted = " or ".join(f"--scenario {one}" for one in scenarios)
            raise ValueError(f"{option}: found it with --scenario {scenario}, expected {wanted}")


def _limit_numpy(threads: int) -> bool:
    """Makes numpy use that many threads, where it is not loaded yet; returns whether that was possible."""
    if "numpy" in sys.modules:
        return False
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    return True
