"""What the kernels are to reach on an H200, and whether they did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from wavernn_trt.scripts.gpu.tasks import Finding

UNIVOC, FATCHORD = "univoc-896", "fatchord-512"
PRECISION = "fp16"
UP_TO = 256
"""The largest batch of which the aim against CUDA graphs is asked."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""At which the kernels may not be slower than PyTorch."""

Rows = Mapping[tuple[str, str, int], float]
"""Samples a second, by subject (``sequence``, ``graph``, ``loop``), model and batch."""
Reached = tuple[float, str] | None
"""A number and what it was reached with; ``None`` where it was not measured."""


@dataclass(frozen=True)
class Target:
    """One number."""

    what: str
    required: float
    aim: float | None
    """As high as one hopes for, if that is said."""
    unit: str
    reached: Callable[[Rows], Reached]


def judge_targets(findings: Sequence[Finding]) -> Iterator[str]:
    """The table's lines: each target, what was reached, and whether that is enough."""
    rows = _rows(findings)
    yield f"{'target':<44}{'at least':>12}{'aim':>12}{'measured':>14}"
    for target in TARGETS:
        reached = target.reached(rows)
        aim = "" if target.aim is None else f"{target.aim:,.0f}{target.unit}"
        head = f"{target.what:<44}{f'{target.required:,.0f}{target.unit}':>12}{aim:>12}"
        if reached is None:
            yield f"{head}{'-':>14}  not measured"
            continue
        number, note = reached
        shown = f"{number:,.2f}{target.unit}" if number < 100 else f"{number:,.0f}{target.unit}"
        word = "missed" if number < target.required else "met"
        if target.aim is not None and number >= target.aim:
            word = "met, and the aim"
        yield f"{head}{shown:>14}  {word}{f' ({note})' if note else ''}"


def _rows(findings: Sequence[Finding]) -> Rows:
    found: dict[tuple[str, str, int], float] = {}
    for one in (finding.numbers for finding in findings):
        kind = one.get("kind")
        subject = "sequence" if kind == "sequence" else one.get("subject") if kind == "peer" else None
        if subject is not None and (one["precision"] == PRECISION or subject == "loop"):
            found[str(subject), str(one["model"]), int(one["batch"])] = float(one["samples_per_second"])
    return found


def _one_stream(model: str) -> Callable[[Rows], Reached]:
    def reached(rows: Rows) -> Reached:
        speed = rows.get(("sequence", model, 1))
        return None if speed is None else (speed, "")

    return reached


def _best(rows: Rows) -> Reached:
    speeds = {
        batch: speed for (subject, model, batch), speed in rows.items() if (subject, model) == ("sequence", UNIVOC)
    }
    if not speeds:
        return None
    batch = max(speeds, key=lambda one: speeds[one])
    return speeds[batch], f"batch {batch}"


def _least_ratio(most: int) -> Callable[[Rows], Reached]:
    """Against CUDA graphs; only a ratio at every batch tells what the least is."""

    def reached(rows: Rows) -> Reached:
        wanted = [batch for batch in BATCHES if batch <= most]
        ratios: dict[int, float] = {}
        for batch in wanted:
            ours, theirs = (rows.get((subject, UNIVOC, batch)) for subject in ("sequence", "graph"))
            if ours is not None and theirs:
                ratios[batch] = ours / theirs
        if not ratios:
            return None
        batch = min(ratios, key=lambda one: ratios[one])
        missing = len(wanted) - len(ratios)
        return ratios[batch], f"least at batch {batch}" + (f"; {missing} batches not measured" if missing else "")

    return reached


def _against_loop(rows: Rows) -> Reached:
    ours, theirs = (rows.get((subject, UNIVOC, 1)) for subject in ("sequence", "loop"))
    return None if ours is None or not theirs else (ours / theirs, "")


TARGETS = (
    Target("one stream, univoc 896", 150_000, 300_000, "", _one_stream(UNIVOC)),
    Target("best batch, univoc 896", 25e6, 45e6, "", _best),
    Target("against PyTorch's CUDA graphs, every batch", 1, None, " x", _least_ratio(max(BATCHES))),
    Target(f"the same, up to batch {UP_TO}", 1, 3, " x", _least_ratio(UP_TO)),
    Target("against the PyTorch loop, batch 1", 100, None, " x", _against_loop),
    Target("one stream, fatchord RAW of 9 bits", 120_000, 250_000, "", _one_stream(FATCHORD)),
)
"""Samples a second in fp16, of an H200, or ratios."""
