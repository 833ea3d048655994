"""Plots throughput and latency against the batch size, from a report of the scenario ``speed``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts.bench.report_file import damaged
from wavernn_trt.scripts.bench.timing import SUBJECTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_SIZE = (9.0, 3.5)
_DOTS_PER_INCH = 160
"""1440 pixels wide: twice the width in a README, for screens of high resolution."""
# The colours of Okabe and Ito, for colour-blind readers; the markers differ too.
_STYLES = {
    "onnxruntime": ("#0072B2", "o"),
    "native": ("#882255", "p"),
    "native-fp32": ("#44AA99", "<"),
    "native-bf16": ("#332288", ">"),
    "native-int8": ("#AA4499", "H"),
    "tensorrt": ("#009E73", "^"),
    "tensorrt-rtx": ("#CC79A7", "v"),
    "cuda": ("#000000", "P"),
    "torch": ("#E69F00", "D"),
    SUBJECTS["loop"]: ("#D55E00", "s"),
    SUBJECTS["cuda-graphs"]: ("#56B4E9", "X"),
    SUBJECTS["openvino"]: ("#117733", "d"),
    SUBJECTS["univoc"]: ("#9C6B00", "*"),
    SUBJECTS["torchaudio"]: ("#6A3D9A", "h"),
}
_UNKNOWN = ("#777777", "x")
_LIMIT = "#555555"
_DASHES: Any = ((0, (5, 3)), (0, (1, 2)))
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
    """Raises `ValueError` if a plot could not be written: suffix, folder, or matplotlib is not installed."""
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


def draw(report: dict[str, Any], file: Path, source: Path | None = None) -> None:
    """Plots a report; needs the extra ``plot`` but no display.

    Args:
        report: of the scenario ``speed``.
        file: a ``.png`` or ``.svg``.
        source: the report's file, if it was read from one.

    Raises:
        ValueError: see `check_drawing`; or the report is empty or damaged.
        OSError: the file cannot be written.
    """
    check_drawing(file)
    import matplotlib

    kind = file.suffix.lower()[1:]
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_SETTINGS):
        try:
            figure = lay_out_figure(report)
        except (KeyError, TypeError, IndexError) as error:
            if source is None:
                raise
            raise damaged(source, "--from", error) from None
        figure.savefig(file, dpi=_DOTS_PER_INCH, format=kind, metadata=metadata)


def lay_out_figure(report: dict[str, Any]) -> Figure:
    """Makes the figure: throughput on the left, latency on the right.

    Raises:
        ValueError: the report has no results.
        KeyError, TypeError, IndexError: the report is damaged.
    """
    if not report["results"]:
        raise ValueError("--plot: found a report without results, expected a measurement of at least one batch size")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    throughput, latency = figure.subplots(1, 2)
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=9)
    _draw_throughput(throughput, report)
    _draw_latency(latency, report)
    return figure


def _draw_throughput(axes: Axes, report: dict[str, Any]) -> None:
    for subject, results in _subjects(report):
        rows = [
            (result["batch"], result["samples_per_second"], (result["slowest"], result["fastest"]))
            for result in results
        ]
        _draw_curve(axes, subject, rows, label=subject)
    for name, flops in _limits(report).items():
        most = flops / (2 * report["model"]["multiply_adds"])
        axes.axhline(most, color=_LIMIT, lw=1.2, ls=_DASHES["GPU" in name], label=f"limit: {name}")
    _lay_out(axes, report, "samples a second", "throughput")


def _limits(report: dict[str, Any]) -> dict[str, float]:
    """FLOP/s of the matrix products that are limits of the subjects, by name."""
    places = {result["place"] for result in report["results"]}
    limits = {}
    if "cpu" in places:
        limits["matrix product" if places == {"cpu"} else "CPU matrix product"] = report["limit"]["flops"][
            report["limit"]["library"]
        ]
    if "gpu" in places and report["gpu_limit"]:
        limits |= {name.replace("gpu", "GPU"): flops for name, flops in report["gpu_limit"]["flops"].items()}
    return limits


def _draw_latency(axes: Axes, report: dict[str, Any]) -> None:
    rate = report["model"]["sample_rate"]
    lengths = {result["chunk_samples"] / rate for result in report["results"] if result.get("chunk_samples")}
    length = f" ({1e3 * next(iter(lengths)):.0f} ms of speech)" if len(lengths) == 1 else ""
    curves = (("first_chunk", "first 20 ms", "-", "full"), ("chunk", f"a chunk{length}", ":", "none"))
    several = len({result["subject"] for result in report["results"] if result["first_chunk_seconds"]}) > 1
    for subject, results in _subjects(report):
        for key, name, style, filled in curves:
            rows = [
                (result["batch"], 1e3 * middle, [1e3 * seconds for seconds in result["repeats"][key]])
                for result in results
                if (middle := result[f"{key}_seconds"]) is not None
            ]
            label = f"{subject}, {name}" if several else name
            _draw_curve(axes, subject, rows, label=label, ls=style, fillstyle=filled)
    if len(lengths) == 1:
        axes.axhline(1e3 * next(iter(lengths)), color=_LIMIT, lw=1.2, ls=(0, (5, 3)), label="a chunk in real time")
    _lay_out(axes, report, "milliseconds", "latency")


def _draw_curve(axes: Axes, subject: str, rows: Sequence[tuple[int, float, Sequence[float]]], **style: Any) -> None:
    """Draws a curve through rows of (batch, value, repeats), with bars that cover all repeats."""
    if not rows:
        return
    batches, values, repeats = zip(*rows, strict=True)
    below = [value - min(several) for value, several in zip(values, repeats, strict=True)]
    above = [max(several) - value for value, several in zip(values, repeats, strict=True)]
    colour, marker = _STYLES.get(subject, _UNKNOWN)
    axes.errorbar(
        batches, values, (below, above), color=colour, marker=marker, ms=4, lw=1.5, elinewidth=1, capsize=2, **style
    )


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
    """A tick's number without an exponent."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _subjects(report: dict[str, Any]) -> list[tuple[str, Sequence[dict[str, Any]]]]:
    """Results of each subject, sorted by batch."""
    results = sorted(report["results"], key=lambda result: int(result["batch"]))
    names = dict.fromkeys(result["subject"] for result in report["results"])
    return [(name, [result for result in results if result["subject"] == name]) for name in names]


def _title(report: dict[str, Any]) -> str:
    model, machine = report["model"], report["machine"]
    layers = f"{model['layers']} x GRU {model['hidden_size']}"
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    return f"{model['family']}, {layers}, {model['sample_rate']} Hz; {machine['cpu']}, {threads}; bars: all repeats"
