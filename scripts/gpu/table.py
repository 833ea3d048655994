"""The table at the end of a run on a GPU, of less than 12,000 characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wavernn_trt.scripts.gpu.cases import STANDARD
from wavernn_trt.scripts.gpu.findings import Finding, Status, proved_kernels

MOST_CHARACTERS = 11_900
DETAILS = (24, 8, 4, 2, 1)
"""Numbers of lines of each kind in a part; the first with which the table fits is taken. results.json has all lines."""
_TEXT = 170
_HEAD = (
    f"{'batch':>6} {'kernel':<30}{'groups':>7}{'us a step':>11}{'samples/s':>14}{'spread':>8}{'TFLOP/s':>9}{'limit':>8}"
)
UNIVOC = next(iter(STANDARD))
TARGETS: tuple[tuple[str, float, float], ...] = (
    ("one stream, univoc 896, samples/s", 150_000, 300_000),
    ("best batch, univoc 896, samples/s", 25e6, 45e6),
    ("times PyTorch's CUDA graphs, worst batch", 1, 3),
    ("times the PyTorch loop, batch 1", 100, 100),
)
"""Targets of an H200 in fp16: name, least value, aim."""


def lay_out(about: Mapping[str, Any], findings: Sequence[Finding]) -> list[str]:
    """Returns the table's lines; ``about`` has the ``date`` and ``seconds`` of the run."""
    for detail in DETAILS:
        lines = list(_lines(about, findings, detail))
        if sum(map(len, lines)) + len(lines) <= MOST_CHARACTERS:
            break
    return lines


def _lines(about: Mapping[str, Any], findings: Sequence[Finding], detail: int) -> Iterator[str]:
    yield f"wavernn-trt on the GPU, {about['date']}, {about['seconds']:.0f} s"
    for part in dict.fromkeys(one.part for one in findings):
        here = [one for one in findings if one.part == part]
        counts = Counter(one.status for one in here)
        yield ""
        yield f"-- {part}: {', '.join(f'{counts[status]} {status}' for status in counts)}"
        tests = any("::" in one.name for one in here)
        yield from _worst(here) if tests else ()
        noted = [one for one in here if one.status == "noted" or (not tests and one.status == "passed")]
        timed = [one for one in noted if one.numbers.get("kind") == "kernel"]
        for one in [one for one in noted if one not in timed][:detail]:
            yield f"   {_short(one.name)}: {' '.join(one.text.split())[:_TEXT]}"
        for reason, count in Counter(one.text for one in here if one.status == "skipped").most_common(detail):
            yield f"   skipped ({count}): {' '.join(reason.split())[:_TEXT]}"
        failed = [one for one in here if one.status == "failed"]
        for one in failed[:detail]:
            yield f"   FAILED {_short(one.name)}: {' '.join(one.text.split())[-_TEXT:]}"
        if len(failed) > detail:
            yield f"   and {len(failed) - detail} more failures"
    yield from _speeds(findings)
    yield from _targets(findings)
    yield ""
    yield verdict(findings)


def verdict(findings: Sequence[Finding]) -> str:
    """Returns a line with the number of findings of each status."""
    counts = Counter(one.status for one in findings)
    word = "FAILED" if counts["failed"] else "all right" if counts["passed"] else "nothing was checked"
    order: tuple[Status, ...] = ("passed", "failed", "skipped", "noted")
    return f"{word}: {', '.join(f'{counts[status]} {status}' for status in order if counts[status])}"


def _short(name: str) -> str:
    return name.rpartition("::")[2][:90]


def _worst(findings: Sequence[Finding]) -> Iterator[str]:
    """Yields for each kernel and precision the passed cases and the worst error as a share of the tolerance."""
    subjects = dict.fromkeys((one.kernel, one.precision) for one in findings if one.kernel)
    for kernel, precision in subjects:
        here = [one for one in findings if (one.kernel, one.precision) == (kernel, precision)]
        ran = [one for one in here if one.status != "skipped"]
        worst = max((float(one.numbers["excess"]) for one in ran if "excess" in one.numbers), default=0.0)
        passed = sum(one.status == "passed" for one in ran)
        yield f"   {kernel} {precision}: {passed} of {len(ran)} passed, worst {worst:.2g} of the tolerance"


def _speeds(findings: Sequence[Finding]) -> Iterator[str]:
    rows = [one for one in findings if one.numbers.get("kind") == "kernel"]
    if not rows:
        return
    proved = proved_kernels(findings, "correctness")
    flops = next((one.numbers["flops"] for one in findings if one.name == "fp16 product" and one.numbers), None)
    for model, precision in dict.fromkeys((one.numbers["model"], one.precision) for one in rows):
        yield ""
        yield f"-- {model} {precision} (limit: share of the fp16 product; unproved: no correctness case passed yet)"
        yield _HEAD
        here = [one for one in rows if (one.numbers["model"], one.precision) == (model, precision)]
        for one in sorted(here, key=lambda one: (one.numbers["batch"], one.numbers["step_us"])):
            numbers = one.numbers
            spread = 100 * (max(numbers["repeats"]) - min(numbers["repeats"])) / numbers["step_us"]
            limit = f"{100 * numbers['flops'] / flops:.1f} %" if flops else "-"
            mark = "" if (one.kernel, precision) in proved else "  unproved"
            speed = f"{numbers['samples_per_second']:>14,.0f}{spread:>6.1f} %{numbers['flops'] / 1e12:>9.2f}"
            yield (
                f"{numbers['batch']:>6} {one.kernel:<30}{numbers['groups']:>7}{numbers['step_us']:>11.2f}"
                f"{speed}{limit:>8}{mark}"
            )


def _targets(findings: Sequence[Finding]) -> Iterator[str]:
    """Yields each target and its measured value."""
    ours: dict[int, float] = {}
    for one in findings:
        numbers = one.numbers
        if numbers.get("kind") == "kernel" and (numbers["model"], one.precision) == (UNIVOC, "fp16"):
            speed = float(numbers["samples_per_second"])
            ours[numbers["batch"]] = max(speed, ours.get(numbers["batch"], 0.0))
    peers = {
        (one.numbers["kind"], one.numbers["batch"]): float(one.numbers["samples_per_second"])
        for one in findings
        if one.numbers.get("kind") in ("graph", "loop")
    }
    ratios = [ours[batch] / speed for (kind, batch), speed in peers.items() if kind == "graph" and batch in ours]
    loop = peers.get(("loop", 1))
    reached = (
        ours.get(1),
        max(ours.values(), default=None),
        min(ratios, default=None),
        ours[1] / loop if loop and 1 in ours else None,
    )
    if not ours:
        return
    yield ""
    yield f"{'target of an H200':<44}{'at least':>12}{'aim':>12}{'measured':>14}"
    for (what, least, aim), value in zip(TARGETS, reached, strict=True):
        shown = "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
        word = "not measured" if value is None else "missed" if value < least else "met" if value < aim else "aim met"
        yield f"{what:<44}{least:>12,.0f}{aim:>12,.0f}{shown:>14}  {word}"
