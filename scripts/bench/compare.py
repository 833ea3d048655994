"""Compares two reports: rows that are slower, faster or the same, by the rule in `RULE`, which ``--help`` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

LEAST = 0.05
"""The least change that counts: two runs differ by some per cent for no reason."""
SPREADS = 3
FEWEST = 5
"""Least repeats of a run: three normal errors are close together by chance often enough for false alarms."""
COARSEST = 0.25
"""The largest change that repeats may hide for rows to count as the same."""
SAME_LIMIT = LEAST
"""Largest difference of two runs' limits for which speeds are compared: with a larger one, a slower machine alone would
be a regression."""
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
    """Speed of a row in one run."""

    speed: float
    """Samples a second."""
    repeats: tuple[float, ...]
    """Samples a second in each repeat, or in each part of a job."""
    share: float | None
    """Of the limit; ``None`` where that was not measured."""
    shares: tuple[float, ...]
    """In each repeat."""
    settings: dict[str, Any]
    """Must be equal for two rates to be comparable."""


@dataclass(frozen=True)
class Row:
    """A row of both reports, and the verdict."""

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
    """The least change that counts, as a share of the old."""
    verdict: Verdict
    reason: str = ""
    """Why it is not judged."""


@dataclass(frozen=True)
class Comparison:
    """Rows of two reports, and how their circumstances differ."""

    machine: tuple[str, ...]
    """Differences of the machines, in words."""
    versions: tuple[str, ...]
    """Differences of versions, in words."""
    others_shares: tuple[float | None, float | None]
    """Of all cores, that other processes took in each run."""
    rows: tuple[Row, ...]

    @property
    def slower(self) -> bool:
        """Whether a row is slower."""
        return any(row.verdict == "SLOWER" for row in self.rows)

    @property
    def judged(self) -> bool:
        """Whether a row was judged."""
        return any(row.verdict != "not judged" for row in self.rows)

    def describe(self) -> dict[str, Any]:
        """Entries of the report."""
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
            # The whole job's speed has one value; its parts show how much it varies.
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
        basis=None,
        ratio=None,
        allowed=None,
        verdict="not judged",
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
