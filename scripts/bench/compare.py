"""Compares two reports: rows are slower, faster or the same by `RULE`, which ``--help`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

LEAST = 0.05
"""Least change that counts: two runs of the same code differ by some per cent."""
SPREADS = 3
FEWEST = 5
"""Least repeats of a run: the spread of fewer is often small by chance, which makes false alarms."""
COARSEST = 0.25
"""Rows whose spreads would hide a larger change than this are not called the same."""
SAME_LIMIT = LEAST
"""Largest difference of two runs' limits for which speeds are compared: above it, a slower machine would look like a
regression."""
_TO_DEVIATION = 1.4826
"""Factor from the median absolute deviation to the standard deviation of normal errors."""

RULE = f"""\
--compare needs two reports of the same scenario, model sizes, threads and seconds. A row (a
backend or peer at a batch) is SLOWER if its median is lower than the old one by more than {100 * LEAST:.0f} %
and by more than {SPREADS} times both runs' spreads together; "faster" is defined likewise. A run's
spread is {_TO_DEVIATION} times the median absolute deviation of its repeats (of a job: of its eight parts
while utterances waited); at least {FEWEST} repeats are needed. A row whose spreads would hide a change
of {100 * COARSEST:.0f} % is not judged.
Samples a second are compared if CPU, cores and GPU are the same and the limits of both runs
differ by less than {100 * SAME_LIMIT:.0f} %. Otherwise the machine or its state has changed: the table shows both
speeds, and the shares of the limit are compared: of the plain matrix product, for every row. They
cancel the speed of matrix products, not the sizes of caches and the speed of memory.
"""

Verdict = Literal["SLOWER", "faster", "same", "not judged"]
Basis = Literal["speed", "share"]


@dataclass(frozen=True)
class Rate:
    """Speed of a row in one run."""

    speed: float
    """Samples a second."""
    repeats: tuple[float, ...]
    """Samples a second in each repeat, or in each part of a job."""
    share: float | None
    """Of the limit; ``None`` if the limit was not measured."""
    shares: tuple[float, ...]
    """Of the limit, in each repeat."""
    settings: dict[str, Any]
    """Rates are comparable only if these are equal."""


@dataclass(frozen=True)
class Row:
    """A row of both reports and its verdict."""

    subject: str
    batch: int
    """Streams, or slots."""
    old: float | None
    """Samples a second; ``None`` if the report has no such row."""
    new: float | None
    old_share: float | None
    """Of the limit."""
    new_share: float | None
    basis: Basis | None = None
    """The judged quantity."""
    ratio: float | None = None
    """New to old, of the judged quantity."""
    allowed: float | None = None
    """Least change that counts, as a share of the old value."""
    verdict: Verdict = "not judged"
    reason: str = ""
    """Why the row is not judged."""


@dataclass(frozen=True)
class Comparison:
    """Rows of two reports, and the differences of their machines and versions."""

    machine: tuple[str, ...]
    """A text for each difference of the machines."""
    versions: tuple[str, ...]
    """A text for each changed version."""
    others_shares: tuple[float | None, float | None]
    """Share of all cores that other processes used, in each run."""
    rows: tuple[Row, ...]

    @property
    def slower(self) -> bool:
        """Whether any row is slower."""
        return any(row.verdict == "SLOWER" for row in self.rows)

    @property
    def judged(self) -> bool:
        """Whether any row was judged."""
        return any(row.verdict != "not judged" for row in self.rows)

    def describe(self) -> dict[str, Any]:
        """The comparison's entries in the report."""
        return {**dataclasses.asdict(self), "slower": self.slower}


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compares an earlier and a later report of the scenario ``speed`` or ``batch``.

    Raises:
        ValueError: their scenarios, models or settings differ, or another scenario.
        KeyError, TypeError: a report is damaged.
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
    """Standard deviation of normal errors, estimated from the median absolute deviation."""
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
        if different := _differences(one, other):
            raise ValueError(
                f"--compare: found different {kind}: {'; '.join(different)}; expected two runs of the same: measure "
                "again as the old report says"
            )


def _machine(report: dict[str, Any]) -> dict[str, Any]:
    machine, gpu = report["machine"], report["gpu"] or {}
    states = [state for state in (gpu.get("before"), gpu.get("after")) if state]
    names = {name: machine[name] for name in ("cpu", "cores", "usable_cores")}
    return {**names, "gpu": states[0]["name"] if states else None}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in old if name in new]
    return [f"{name} {old[name]} -> {new[name]}" for name in names if old[name] != new[name]]


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
            # The whole job has one speed; its parts show the variation.
            repeats = tuple(speed * part / median(parts) for part in parts)
            share = result["share_of_limit"]
            shares = tuple(share * repeat / speed for repeat in repeats) if share is not None else ()
            names = ("lanes", "chunk", "lengths", "speech", "speech_seconds", "precision")
            settings = {name: result[name] for name in names}
        rates[key] = Rate(speed, repeats, result["share_of_limit"], shares, settings)
    return rates


def _judge(key: tuple[str, int], old: Rate | None, new: Rate | None, missing: str | None, *, another: bool) -> Row:
    row = Row(
        *key,
        old=old.speed if old else None,
        new=new.speed if new else None,
        old_share=old.share if old else None,
        new_share=new.share if new else None,
    )
    if old is None:
        return dataclasses.replace(row, reason="only in the new report")
    if new is None:
        return dataclasses.replace(row, reason="only in the old report" + (f"; now {missing}" if missing else ""))
    if different := _differences(old.settings, new.settings):
        return dataclasses.replace(row, reason="; ".join(different))
    fewest = min(len(old.repeats), len(new.repeats))
    if fewest < FEWEST:
        return dataclasses.replace(row, reason=f"{fewest} repeats, expected {FEWEST} or more")
    basis: Basis = "speed"
    if old.share and new.share:
        limits = (new.speed / new.share) / (old.speed / old.share)
        basis = "share" if another or abs(limits - 1) > SAME_LIMIT else "speed"
    elif another:
        return dataclasses.replace(row, reason="another machine, and no limit measured")
    before, after = (old.repeats, new.repeats) if basis == "speed" else (old.shares, new.shares)
    middle, now = median(before), median(after)
    allowed = max(LEAST, SPREADS * (spread(before) + spread(after)) / middle)
    row = dataclasses.replace(row, basis=basis, ratio=now / middle, allowed=allowed)
    change = now / middle - 1
    if abs(change) > allowed:
        return dataclasses.replace(row, verdict="SLOWER" if change < 0 else "faster")
    if allowed > COARSEST:
        return dataclasses.replace(row, reason=f"repeats waver: they would hide {100 * allowed:.0f} %")
    return dataclasses.replace(row, verdict="same")
