"""``python -m wavernn_trt.scripts.bench.tables``: writes the README's table of speeds from the published results."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from wavernn_trt.scripts.bench.backends import BACKENDS, NATIVE
from wavernn_trt.scripts.bench.report import BUSY
from wavernn_trt.scripts.bench.report_file import damaged, read_report
from wavernn_trt.scripts.bench.timing import COMPARED, SUBJECTS

BEGIN = "<!-- speed: written by python -m wavernn_trt.scripts.bench.tables -->"
END = "<!-- end of speed -->"
"""Markers before and after the table."""
ROOT = Path(__file__).resolve().parents[2]
"""The clone; the results are not installed with the package."""
PATTERN = "speed-*.json"
"""Names of the results: reports of ``bench --scenario speed --json``."""
PROGRAM = "wavernn_trt.scripts.bench.tables"
DESCRIPTION = "Writes the README's table of speeds from the published results."
_WIDTH = 118
_LOOP = SUBJECTS["loop"]
_OWN = {
    "univoc": "univoc {version}'s `Vocoder.generate` (one stream at a time)",
    "torchaudio": "torchaudio {version}'s `WaveRNN.infer`",
}
_HEAD = (
    "model",
    "backend",
    "streams",
    "samples/s (all repeats)",
    "real-time factor",
    "first 20 ms",
    "against onnxruntime",
    "against loop",
    "against own code",
    "limit",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table into the README, or with ``--check`` only compares it.

    Returns:
        The exit code: 1 if ``--check`` found a difference, 2 if results or markers are missing, else 0.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=DESCRIPTION)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README differs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="default: the clone's")
    parser.add_argument("--results", type=Path, default=ROOT / "scripts/bench/results", help="default: the clone's")
    arguments = parser.parse_args(argv)
    try:
        reports = read_results(arguments.results)
        before = arguments.readme.read_text(encoding="utf-8")
        after = replace(before, lay_out(reports))
    except (ValueError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    if before == after:
        return 0
    if arguments.check:
        print(f"{PROGRAM}: {arguments.readme} differs from the results; run python -m {PROGRAM}", file=sys.stderr)
        return 1
    arguments.readme.write_text(after, encoding="utf-8")
    return 0


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Reads the reports: trained voices first, then models with random weights; by name.

    Raises:
        ValueError: there is no report, or one is damaged or has no date.
    """
    reports = []
    for file in sorted(folder.glob(PATTERN)):
        report = read_report(file, "results")
        if report["scenario"] != "speed" or report["date"] is None:
            raise ValueError(f"{file}: expected a report of --scenario speed that has a date")
        try:
            "".join(lay_out([report]))
        except (KeyError, TypeError) as error:
            raise damaged(file, "results", error) from None
        reports.append(report)
    if not reports:
        raise ValueError(f"{folder}: found no {PATTERN}")
    return sorted(reports, key=lambda report: report["model"]["random"] is not None)


def replace(text: str, lines: Iterable[str]) -> str:
    """Replaces the lines between the markers in a README's text.

    Raises:
        ValueError: the text does not contain both markers once, in their order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected once each, in this order: {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    return "\n".join((f"{before}{BEGIN}", *lines, f"{END}{rest.partition(END)[2]}"))


def lay_out(reports: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields caption and table in Markdown: rows for the fewest and the most streams."""
    yield from textwrap.wrap(_caption(reports), _WIDTH, break_long_words=False, break_on_hyphens=False)
    yield ""
    rows: list[tuple[str, ...]] = [_HEAD]
    for report in reports:
        name = _model(report)
        batches = [result["batch"] for result in report["results"]]
        for result in report["results"]:
            if result["subject"] in BACKENDS and result["batch"] in (min(batches), max(batches)):
                rows.append(_row(name, report, result))
                name = ""
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
    head, *lines = zip(*columns, strict=True)
    yield _line(head)
    yield "|" + "---|" * len(head)
    yield from map(_line, lines)


def _row(name: str, report: dict[str, Any], result: dict[str, Any]) -> tuple[str, ...]:
    places = {other["subject"]: other["place"] for other in report["results"]}
    beside = {peer: ratio for peer, ratio in result["times"].items() if places[peer] == result["place"]}
    own = [beside[peer] for peer in _OWN if peer in beside]
    precision = f" {result['precision']}" if result["place"] == "gpu" or result["subject"] == NATIVE else ""
    return (
        name,
        f"{result['subject']}{precision}",
        str(result["batch"]),
        f"{result['samples_per_second']:,.0f} ({result['slowest']:,.0f} … {result['fastest']:,.0f})",
        f"{result['real_time_factor']:.2f}",
        _milliseconds(result["first_chunk_seconds"]),
        _times(None if result["subject"] == COMPARED else beside.get(COMPARED)),
        _times(beside.get(_LOOP)),
        _times(own[0] if own else None),
        _share(result),
    )


def _share(result: dict[str, Any]) -> str:
    """Share of the row's own limit; of the matrix product, in reports before it and on a GPU."""
    own = result.get("own_limit")
    share = own["share"] if own else result["share_of_limit"]
    return "-" if share is None else f"{100 * share:.0f} %"


def _caption(reports: Sequence[dict[str, Any]]) -> str:
    machines = _several(dict.fromkeys(_machine(report) for report in reports))
    days = sorted({datetime.fromisoformat(report["date"]).strftime("%Y-%m-%d") for report in reports})
    repeats = _range([report["repeats"] for report in reports])
    own = [
        text.format(version=_several(dict.fromkeys(report["versions"][peer] for report in having)))
        for peer, text in _OWN.items()
        if (having := [report for report in reports if peer in report["peers"]])
    ]
    sentences = [
        f"Measured on {machines} on {_several(days)} (UTC): medians of {repeats} repeats.",
        _others(reports),
        "*Loop* is a plain PyTorch loop over the model's own modules, as the projects themselves generate"
        + (f"; *own code* is {_several(own)}, with the same weights." if own else ".")
        if any("loop" in report["peers"] for report in reports)
        else "",
        _limit(reports),
        "Models named after a size have random weights."
        if any(report["model"]["random"] for report in reports)
        else "",
        "Rows are for the fewest and the most streams; scripts/bench/results has the others.",
        f"How: {_several(_command(report) for report in reports)}.",
    ]
    return " ".join(filter(None, sentences))


def _limit(reports: Sequence[dict[str, Any]]) -> str:
    """A sentence about the limits."""
    if all(report.get("cpu_limit") for report in reports):
        return (
            "All were measured in the same rounds, as was the *limit*, of which the reached share is shown: the time "
            "for reading the weights once a step, or for the multiply-adds with operands in registers if they take "
            "longer (on a GPU a plain matrix product)."
        )
    return (
        "Both were measured in the same rounds, as was the *limit*, a plain matrix product (float32; on a GPU in its "
        "precision). The last column shows the share of that limit that was reached."
    )


def _others(reports: Sequence[dict[str, Any]]) -> str:
    """A sentence about the load of other processes."""
    shares = [report["others_share"] for report in reports if report["others_share"] is not None]
    if not shares:
        return "What else ran there is not known."
    took = f"Other processes took {_range([round(100 * share) for share in shares])} % of all cores meanwhile"
    if max(shares) < BUSY:
        return f"{took}."
    return f"{took}: a quiet machine will say something else, of ratios too (more threads get more of busy cores)."


def _machine(report: dict[str, Any]) -> str:
    machine, versions, gpu = report["machine"], report["versions"], report["gpu"]
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    parts = [f"{name} {versions[name]}" for name in ("onnxruntime", "torch") if versions.get(name)]
    if gpu and any(result["place"] == "gpu" for result in report["results"]):
        state = gpu["before"] or gpu["after"]
        parts = [f"{state['name']} (driver {state['driver']})", *parts]
    python = f"Python {versions['python']}"
    return f"{machine['usable_cores']} cores of an {machine['cpu']}{memory}, {python}, {', '.join(parts)},"


def _model(report: dict[str, Any]) -> str:
    model, threads = report["model"], report["threads"]
    layers = f"{model['layers']} x GRU {model['hidden_size']}"
    return (
        f"{model['name']}: {layers}, {model['sample_rate'] / 1000:g} kHz; {threads} thread{'s' if threads > 1 else ''}"
    )


def _command(report: dict[str, Any]) -> str:
    model = f" --random {report['model']['random']}" if report["model"]["random"] else ""
    batches = ",".join(map(str, dict.fromkeys(result["batch"] for result in report["results"])))
    backends = ",".join(report["loads"])
    precision = f" --precision {report['precision']}" if report["precision"] else ""
    time = f"--repeats {report['repeats']} --seconds {report['seconds']}"
    return f"`bench{model} --backend {backends}{precision} --threads {report['threads']} --batch {batches} {time}`"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f} x"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _several(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
