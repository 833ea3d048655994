"""The table that a run ends with; short enough that the last 12,000 characters of the output hold all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.scripts.gpu.targets import judge_targets
from wavernn_trt.scripts.gpu.tasks import CORRECTNESS, Finding, Status

MOST_FAILURES = 6
"""Of a part, shown one by one; the JSON file has all."""
_TEXT = 200
SPEED = "speed"
HEAD = (
    f"{'batch':>5}{'samples/s':>12}{'spread':>7}{'us a step':>10}{'GB/s':>8}{'TFLOP/s':>9}{'limit':>8}{'loop':>9}"
    f"{'graph':>8}  kernel"
)
NOTES = """\
spread: half of (fastest - slowest) as a share of the median. GB/s: the weights' bytes, once a step. limit: share of the
product above. loop, graph: times as fast as PyTorch at the same batch; the graph in the same precision.\
"""


def lay_out(report: dict[str, Any], findings: Sequence[Finding]) -> Iterator[str]:
    """The table's lines.

    Args:
        report: ``date``, ``seconds``, ``host`` and ``subset`` of the run.
        findings: all of them.
    """
    what = "the kernels' host build" if report["host"] else "the GPU"
    yield f"wavernn-trt on {what}, {report['date']}, {report['seconds']:.0f} s"
    for part in dict.fromkeys(found.part for found in findings):
        here = [found for found in findings if found.part == part]
        yield ""
        yield f"-- {part}" + (
            " (right of all, and the worst as a share of the tolerance; -: skipped)" if part == CORRECTNESS else ""
        )
        layout = {SPEED: _speed, CORRECTNESS: _counts}.get(part, _lines)
        yield from layout(here)
        yield from _failures(here)
    if any(found.part == SPEED for found in findings):
        yield ""
        yield from judge_targets(findings)
    yield ""
    yield verdict(findings)


def verdict(findings: Sequence[Finding]) -> str:
    """All in a line."""
    counts = Counter(found.status for found in findings)
    order: tuple[Status, ...] = ("passed", "failed", "skipped", "noted")
    word = "FAILED" if counts["failed"] else "all right" if counts["passed"] else "nothing was checked"
    return f"{word}: {', '.join(f'{counts[status]} {status}' for status in order if counts[status])}"


def _counts(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each subject, a column for each of its lines: how many cases were right, and the worst of them."""
    columns = list(dict.fromkeys(found.line for found in findings))
    numbers = {column: chr(ord("a") + i) for i, column in enumerate(columns)}
    yield ", ".join(f"{number}: {column}" for column, number in numbers.items())
    yield f"{'':<24}" + "".join(f"{number:>11}" for number in numbers.values())
    cells: dict[tuple[str, str], list[Finding]] = {}
    for found in findings:
        cells.setdefault((found.subject, found.line), []).append(found)
    for subject in dict.fromkeys(found.subject for found in findings):
        row = (_count(cells.get((subject, column), [])) for column in columns)
        yield f"{subject:<24}" + "".join(f"{cell:>11}" for cell in row).rstrip()
    reasons = Counter(found.text for found in findings if found.status == "skipped")
    for reason, count in reasons.most_common(MOST_FAILURES):
        yield f"skipped ({count}): {reason[:_TEXT]}"


def _count(findings: Sequence[Finding]) -> str:
    """As in ``12/12 .003``, or ``11/12!`` where one was wrong."""
    run = [found for found in findings if found.status != "skipped"]
    if not run:
        return "-" if findings else ""
    right = sum(found.status != "failed" for found in run)
    worst = max((found.numbers["excess"] for found in run if "excess" in found.numbers), default=None)
    mark = "!" if right < len(run) else "" if worst is None else f" {worst:.1g}"
    return f"{right}/{len(run)}{mark}"


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """One for each subject and line: the only finding's words, or how many passed and the worst of them."""
    lines: dict[tuple[str, str], list[Finding]] = {}
    for found in findings:
        lines.setdefault((found.subject, found.line), []).append(found)
    for (subject, line), group in lines.items():
        head = f"{subject:<14} {line:<20} "
        if len(group) == 1 and not group[0].name:
            status = group[0].status if group[0].status != "noted" else ""
            yield f"{head}{status:<8}{group[0].text[: 2 * _TEXT]}".rstrip()
            continue
        counts = Counter(found.status for found in group)
        mark = "FAILED" if counts["failed"] else "passed" if counts["passed"] else ""
        text = f"{counts['passed']} of {len(group)}"
        if counts["skipped"]:
            reasons = dict.fromkeys(found.text for found in group if found.status == "skipped")
            text += f", {counts['skipped']} skipped: {'; '.join(reasons)[:_TEXT]}"
        worst = max((found.numbers["excess"] for found in group if "excess" in found.numbers), default=None)
        if worst is not None:
            text += f", worst {worst:.2g}"
        yield f"{head}{mark:<8}{text}"


def _failures(findings: Sequence[Finding]) -> Iterator[str]:
    failed = [found for found in findings if found.status == "failed"]
    for found in failed[:MOST_FAILURES]:
        name = ", ".join(filter(None, (found.subject, found.line, found.name)))
        yield f"  failed: {name}: {' '.join(found.text.split())[:_TEXT]}"
    if len(failed) > MOST_FAILURES:
        yield f"  and {len(failed) - MOST_FAILURES} more"


def _speed(findings: Sequence[Finding]) -> Iterator[str]:
    """The numbers in columns, and what could not be measured by its reasons."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for found in findings:
        by_kind.setdefault(str(found.numbers.get("kind", "")), []).append(found.numbers)
        if found.subject in ("clocks", "ceiling"):
            yield f"{found.subject:<14} {found.line:<20} {found.text[:_TEXT]}"
    ceilings = {ceiling["name"]: ceiling for ceiling in by_kind.get("ceiling", [])}
    peers = {(*_key(peer), peer["subject"]): peer for peer in by_kind.get("peer", [])}
    if rows := by_kind.get("sequence", []):
        product = ceilings.get("product", {}).get("flops")
        yield HEAD
        for name in dict.fromkeys((row["model"], row["precision"]) for row in rows):
            yield " ".join(name)
            here = (row for row in rows if (row["model"], row["precision"]) == name)
            yield from (_sequence_row(row, product, peers) for row in sorted(here, key=lambda row: int(row["batch"])))
        yield from NOTES.splitlines()
    if rows := by_kind.get("cell", []):
        yield from _cell_rows(rows, ceilings.get("copy", {}).get("bytes_per_second"))
    for reason, count in Counter(found.text for found in findings if found.status == "skipped").items():
        yield f"not measured ({count}): {reason[:_TEXT]}"


def _key(numbers: dict[str, Any]) -> tuple[str, int, str]:
    return numbers["model"], numbers["batch"], numbers["precision"]


def _sequence_row(row: dict[str, Any], product: float | None, peers: dict[tuple[Any, ...], dict[str, Any]]) -> str:
    speed = row["samples_per_second"]
    loop = peers.get((row["model"], row["batch"], "fp32", "loop"))
    graph = peers.get((*_key(row), "graph"))
    ratios = [f"{speed / peer['samples_per_second']:.1f} x" if peer else "-" for peer in (loop, graph)]
    limit = f"{100 * row['flops'] / product:.2f} %" if product else "-"
    spread = 50 * (row["fastest"] - row["slowest"]) / speed
    groups = f" x {row['groups']}" if row["groups"] > 1 else ""
    first = f"{row['batch']:>5}{speed:>12,.0f}{spread:>5.1f} %{row['step_us']:>10.2f}"
    rates = f"{row['weight_bytes_per_second'] / 1e9:>8,.0f}{row['flops'] / 1e12:>9.2f}{limit:>8}"
    return f"{first}{rates}{ratios[0]:>9}{ratios[1]:>8}  {row['kernel']}{groups}"


def _cell_rows(rows: Sequence[dict[str, Any]], copy: float | None) -> Iterator[str]:
    found = {(row["batch"], row["precision"]): row for row in rows}
    yield f"{'one GRU cell':<14}{'batch':>6}" + "".join(f"{f'{p} us, GB/s, copy':>22}" for p in PRECISIONS)
    for batch in dict.fromkeys(row["batch"] for row in rows):
        cells = []
        for precision in PRECISIONS:
            row = found.get((batch, precision))
            speed = row["weight_bytes_per_second"] if row else 0.0
            share = f"{100 * speed / copy:.0f} %" if copy else "-"
            cells.append(f"{1e6 * row['seconds']:.2f}{speed / 1e9:>8,.0f}{share:>7}" if row else "-")
        yield f"{'':<14}{batch:>6}" + "".join(f"{cell:>22}" for cell in cells)
