"""Throughput and latency against the batch size, drawn from a report of the scenario ``speed``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_SIZE = (9.0, 3.5)
_DOTS_PER_INCH = 160
"""1440 pixels: twice what a README shows, for screens that are that fine."""
# Okabe and Ito's colours, which colour-blind people can tell apart; in grey, markers do.
_STYLES = {
    "onnxruntime": ("#0072B2", "o"),
    "tensorrt": ("#009E73", "^"),
    "tensorrt-rtx": ("#CC79A7", "v"),
    "torch": ("#E69F00", "D"),
    "pytorch loop": ("#D55E00", "s"),
}
_LIMIT = "#555555"
_SETTINGS: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "wavernn-trt",  # the same report gives the same file
}


def check_drawing(file: Path) -> None:
    """Refuses what could not be drawn, before anything is measured.

    Raises:
        ValueError: another suffix, no such folder, a folder of that name, or matplotlib is not installed.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--plot: found {file}, expected a name that ends in {' or '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        raise ValueError(f"--plot: {file.parent} is not a folder")
    if file.is_dir():
        raise ValueError(f"--plot: found the folder {file}, expected a file's name")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "--plot: matplotlib is not installed; install it with: pip install '.[plot]' in a clone of the project"
        )


def read_report(file: Path) -> dict[str, Any]:
    """A report that ``--json`` wrote.

    Raises:
        ValueError: it cannot be read, or holds nothing that can be drawn.
        OSError: it is not there.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--from: {file}: not JSON ({error}); expected what 'bench --json' wrote") from None
    scenario = report.get("scenario", "speed") if isinstance(report, dict) else None
    if scenario != "speed":
        found = "something else" if scenario is None else f"a report of --scenario {scenario}"
        raise ValueError(f"--from: {file}: found {found}, expected a report of --scenario speed")
    try:
        _check(report)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--from: {file}: found no usable {error}, expected what 'bench --json' wrote") from None
    return report  # type: ignore[no-any-return]


def draw(report: dict[str, Any], file: Path) -> None:
    """Draws a report; needs the extra ``plot``, and no display.

    Args:
        report: of the scenario ``speed``.
        file: a ``.png`` or ``.svg``.

    Raises:
        ValueError: see `check_drawing`; or nothing was measured.
        OSError: the file cannot be written.
    """
    check_drawing(file)
    if not report["results"]:
        raise ValueError("--plot: found a report without results, expected a measurement of at least one batch size")
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        kind = file.suffix.lower()[1:]
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        lay_out_figure(report).savefig(file, dpi=_DOTS_PER_INCH, format=kind, metadata=metadata)


def lay_out_figure(report: dict[str, Any]) -> Figure:
    """The figure: throughput on the left, latency on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)  # whatever display there is, or is not
    throughput, latency = figure.subplots(1, 2)
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=9)
    _draw_throughput(throughput, report)
    _draw_latency(latency, report)
    return figure


def _draw_throughput(axes: Axes, report: dict[str, Any]) -> None:
    for subject, results in _subjects(report):
        colour, marker = _STYLES.get(subject, ("black", "x"))
        speeds = [result["samples_per_second"] for result in results]
        spread = (
            [speed - result["slowest"] for speed, result in zip(speeds, results, strict=True)],
            [result["fastest"] - speed for speed, result in zip(speeds, results, strict=True)],
        )
        batches = [result["batch"] for result in results]
        axes.errorbar(
            batches,
            speeds,
            yerr=spread,
            color=colour,
            marker=marker,
            ms=4,
            lw=1.5,
            elinewidth=1,
            capsize=2,
            label=subject,
        )
    limit, model = report["limit"], report["model"]
    most = limit["flops"][limit["library"]] / (2 * model["multiply_adds"])
    axes.axhline(most, color=_LIMIT, lw=1.2, ls=(0, (5, 3)), label="limit: matrix product")
    _lay_out(axes, report, "samples a second", "throughput")


def _draw_latency(axes: Axes, report: dict[str, Any]) -> None:
    rate = report["model"]["sample_rate"]
    lengths = {result["chunk_samples"] / rate for result in report["results"] if result.get("chunk_samples")}
    length = f" ({1e3 * next(iter(lengths)):.0f} ms of speech)" if len(lengths) == 1 else ""
    curves = (("first_chunk", "first 20 ms", "-", "full"), ("chunk", f"a chunk{length}", ":", "none"))
    several = len({result["subject"] for result in report["results"] if result["first_chunk_seconds"]}) > 1
    for subject, results in _subjects(report):
        colour, marker = _STYLES.get(subject, ("black", "x"))
        for key, name, style, filled in curves:
            there = [result for result in results if result.get(f"{key}_seconds") is not None]
            if not there:
                continue
            middle = [1e3 * result[f"{key}_seconds"] for result in there]
            repeats = [[1e3 * seconds for seconds in result["repeats"][key]] for result in there]
            spread = (
                [here - min(times) for here, times in zip(middle, repeats, strict=True)],
                [max(times) - here for here, times in zip(middle, repeats, strict=True)],
            )
            axes.errorbar(
                [result["batch"] for result in there],
                middle,
                yerr=spread,
                color=colour,
                marker=marker,
                ms=4,
                lw=1.5,
                ls=style,
                fillstyle=filled,
                elinewidth=1,
                capsize=2,
                label=f"{subject}, {name}" if several else name,
            )
    if len(lengths) == 1:
        axes.axhline(1e3 * next(iter(lengths)), color=_LIMIT, lw=1.2, ls=(0, (5, 3)), label="a chunk in real time")
    _lay_out(axes, report, "milliseconds", "latency")


def _lay_out(axes: Axes, report: dict[str, Any], unit: str, title: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    batches = sorted({result["batch"] for result in report["results"]})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(batches))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("batch: streams decoded together")
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.legend(fontsize=8)


def _plain(value: float, _: int | None = None) -> str:
    """A tick's number as people write it."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _subjects(report: dict[str, Any]) -> list[tuple[str, Sequence[dict[str, Any]]]]:
    """Each subject's results, by batch."""
    results = sorted(report["results"], key=lambda result: int(result["batch"]))
    names = dict.fromkeys(result["subject"] for result in report["results"])
    return [(name, [result for result in results if result["subject"] == name]) for name in names]


def _title(report: dict[str, Any]) -> str:
    model, machine = report["model"], report["machine"]
    layers = f"{model['layers']} x GRU {model['hidden_size']}"
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    return f"{model['family']}, {layers}, {model['sample_rate']} Hz; {machine['cpu']}, {threads}; bars: all repeats"


def _check(report: dict[str, Any]) -> None:
    """Looks at everything that is drawn.

    Raises:
        KeyError: it is not there; TypeError: it is of another kind.
    """
    _title(report)
    report["limit"]["flops"][report["limit"]["library"]] / report["model"]["multiply_adds"]
    for result in report["results"]:
        for key in ("batch", "samples_per_second", "slowest", "fastest"):
            result[key] + 0
        result["subject"], result["repeats"]["first_chunk"], result["first_chunk_seconds"]
