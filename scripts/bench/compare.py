"""Two reports side by side: what has become slower, faster, or stayed, and what cannot be said.

The rule stands in `RULE`, which ``--help`` shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

LEAST = 0.05
"""A change that is never called one, whatever the repeats say: two runs differ by some per cent for no reason."""
SPREADS = 3
FEWEST = 5
"""Repeats of a run: three of normal errors lie close together by chance often enough for false alarms."""
COARSEST = 0.25
"""A change that repeats may hide, and their rows still be called the same."""
SAME_LIMIT = LEAST
"""By which the limits of two runs may differ, for their speeds to be compared as they are: by more, and a slower
machine alone would be a regression."""
_TO_DEVIATION = 1.4826
"""From a median absolute deviation to the standard deviation of normal errors."""

RULE = f"""\
--compare checks that both reports are of the same scenario, model sizes, threads and seconds,
and refuses others. A row (a backend or peer at a batch) is SLOWER if its median lies below the
old one by more than {100 * LEAST:.0f} % and by more than {SPREADS} times both runs' spreads added up; faster,
likewise. A run's spread is {_TO_DEVIATION} times the median absolute deviation of its repeats (of a job:
of its eight parts, while utterances waited); it takes {FEWEST} repeats. Rows whose spreads would
hide a change of {100 * COARSEST:.0f} % are not called the same: they are not judged.
What is judged are samples a second, if CPU, cores and GPU are the same and the limits measured
beside the row differ by less than {100 * SAME_LIMIT:.0f} %. Otherwise the machine, or its state, is another: that
is said, both speeds are shown, and the shares of the limit are judged. They cancel how fast the
machine multiplies, not how large its caches and how fast its memory are.
"""

Verdict = Literal["SLOWER", "faster", "same", "not judged"]
Basis = Literal["speed", "share"]


@dataclass(frozen=True)
class Rate:
    """How fast a row was in one run."""

    speed: float
    """Samples a second."""
    repeats: tuple[float, ...]
    """Samples a second in each repeat, or in each part of a job."""
    share: float | None
    """Of the limit; ``None`` where that was not measured."""
    shares: tuple[float, ...]
    """In each repeat."""
    settings: dict[str, Any]
    """What must be equal, for two rates to be comparable."""


@dataclass(frozen=True)
class Row:
    """What became of a row."""

    subject: str
    batch: int
    """Streams, or slots."""
    old: float | None
    """Samples a second; ``None`` where the run has no such row."""
    new: float | None
    old_share: float | None
    """Of the limit."""
    new_share: float | None
    basis: Basis | None
    """What was judged."""
    ratio: float | None
    """New to old, of what was judged."""
    allowed: float | None
    """The change, as a share of the old, from which on it counts as one."""
    verdict: Verdict
    reason: str = ""
    """Why it was not judged."""


@dataclass(frozen=True)
class Comparison:
    """Of two reports."""

    machine: tuple[str, ...]
    """What differs between the machines, in words."""
    versions: tuple[str, ...]
    """Versions that differ, in words."""
    others_shares: tuple[float | None, float | None]
    """Of all cores, that other processes took in each run."""
    rows: tuple[Row, ...]

    @property
    def slower(self) -> bool:
        """Whether anything is."""
        return any(row.verdict == "SLOWER" for row in self.rows)

    @property
    def judged(self) -> bool:
        """Whether anything was."""
        return any(row.verdict != "not judged" for row in self.rows)

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {**dataclasses.asdict(self), "slower": self.slower}


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compares two reports.

    Args:
        old: of an earlier run, of the scenario ``speed`` or ``batch``.
        new: of a later one.

    Raises:
        ValueError: they are of different scenarios, models or settings, or of a scenario without a rate.
        KeyError, TypeError: something is missing in them.
    """
    _require_same(old, new)
    machine = tuple(_differences(_machine(old), _machine(new)))
    before, after = _rates(old), _rates(new)
    keys = [*after, *(key for key in before if key not in after)]
    rows = tuple(
        _judge(key, before.get(key), after.get(key), new["missing"].get(key[0]), another=bool(machine)) for key in keys
    )
    versions = tuple(_differences(old["versions"], new["versions"]))
    return Comparison(machine, versions, (old.get("others_share"), new.get("others_share")), rows)


def spread(values: Sequence[float]) -> float:
    """The standard deviation that the median absolute deviation stands for."""
    middle = median(values)
    return _TO_DEVIATION * median(abs(value - middle) for value in values)


def _require_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    if old["scenario"] != new["scenario"] or new["scenario"] not in ("speed", "batch"):
        raise ValueError(
            f"--compare: found reports of --scenario {old['scenario']} and {new['scenario']}, expected two of speed or "
            "two of batch"
        )
    sizes = ("family", "hidden_size", "layers", "fc_sizes", "outputs", "sample_rate", "multiply_adds")
    models = [{name: report["model"][name] for name in sizes} for report in (old, new)]
    settings = [{name: report.get(name) for name in ("threads", "seconds")} for report in (old, new)]
    for kind, (one, other) in (("models", models), ("settings", settings)):
        if different := list(_differences(one, other)):
            raise ValueError(
                f"--compare: found different {kind}: {'; '.join(different)}; expected two runs of the same: measure "
                "again as the old report says"
            )


def _machine(report: dict[str, Any]) -> dict[str, Any]:
    machine, gpu = report["machine"], report["gpu"] or {}
    states = [state for state in (gpu.get("before"), gpu.get("after")) if state]
    names = {name: machine[name] for name in ("cpu", "cores", "usable_cores")}
    # A report from before GPUs were told says nothing of one.
    return names if report["date"] is None else {**names, "gpu": states[0]["name"] if states else None}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in old if name in new]
    return [f"{name} {old[name]} -> {new[name]}" for name in names if old[name] != new[name]]


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what an older report did not hold."""
    return {name: value for name, value in settings.items() if value is not None}


def _rates(report: dict[str, Any]) -> dict[tuple[str, int], Rate]:
    rates = {}
    for result in report["results"]:
        if report["scenario"] == "speed":
            key = result["subject"], result["batch"]
            repeats = tuple(result["samples"] / elapsed for elapsed in result["repeats"]["elapsed"])
            speed, shares = median(repeats), tuple(result["shares"] or ())
            settings = {name: result[name] for name in ("chunk_samples", "precision")}
        else:
            key = result["subject"], result["slots"]
            job = result["scheduler"]
            speed, parts = job["samples_per_second"], job["repeats"]
            # The whole job's speed has one value; how much it wavers is told by its parts.
            repeats = tuple(speed * part / median(parts) for part in parts)
            share = result["share_of_limit"]
            shares = tuple(share * repeat / speed for repeat in repeats) if share is not None else ()
            names = ("lanes", "chunk", "lengths", "speech", "speech_seconds", "precision")
            settings = {name: result[name] for name in names}
        rates[key] = Rate(speed, repeats, result["share_of_limit"], shares, settings)
    return rates


def _judge(key: tuple[str, int], old: Rate | None, new: Rate | None, missing: str | None, *, another: bool) -> Row:
    subject, batch = key

    def row(verdict: Verdict, reason: str = "", basis: Basis | None = None, *numbers: float) -> Row:
        ratio, allowed = numbers or (None, None)
        return Row(
            subject,
            batch,
            None if old is None else old.speed,
            None if new is None else new.speed,
            None if old is None else old.share,
            None if new is None else new.share,
            basis,
            ratio,
            allowed,
            verdict,
            reason,
        )

    if old is None:
        return row("not judged", "only in the new report")
    if new is None:
        return row("not judged", "only in the old report" + (f"; now {missing}" if missing else ""))
    if different := list(_differences(_told(old.settings), _told(new.settings))):
        return row("not judged", "; ".join(different))
    fewest = min(len(old.repeats), len(new.repeats))
    if fewest < FEWEST:
        return row("not judged", f"{fewest} repeats, expected {FEWEST} or more")
    basis: Basis = "speed"
    if old.share and new.share:
        limits = (new.speed / new.share) / (old.speed / old.share)
        basis = "share" if another or abs(limits - 1) > SAME_LIMIT else "speed"
    elif another:
        return row("not judged", "another machine, and no limit measured")
    before, after = (old.repeats, new.repeats) if basis == "speed" else (old.shares, new.shares)
    middle, now = median(before), median(after)
    allowed = max(LEAST, SPREADS * (spread(before) + spread(after)) / middle)
    change = now / middle - 1
    verdict: Verdict = "SLOWER" if change < -allowed else "faster" if change > allowed else "same"
    if verdict == "same" and allowed > COARSEST:
        return row("not judged", f"repeats waver: they would hide {100 * allowed:.0f} %", basis, now / middle, allowed)
    return row(verdict, "", basis, now / middle, allowed)
