"""Reports that ``--json`` wrote: of this schema as they are, of the one before brought up to it.

Every report (`Circumstances`) has ``schema``, ``scenario``, ``date`` (UTC), ``machine``, ``gpu`` (its state before
and after, and what held its clocks back), ``others_share`` (of all cores, that other processes took), ``versions``,
``model``, ``threads``, ``results`` (a row for each backend or peer and batch) and ``missing`` (what was not measured,
and why); with ``--price`` also ``price`` and a ``cost`` in each row, with ``--compare`` a ``comparison``.

Those of the scenario ``speed`` also have ``repeats``, ``seconds``, ``precision``, ``numpy_threads``, ``peers``,
``loads`` and the ceilings ``limit``, ``copy``, ``gpu_limit`` and ``gpu_copy``. Their rows:

- ``subject``, ``batch``, ``place`` (``cpu`` or ``gpu``), ``precision``, ``engine``, ``samples`` (of a repeat),
  ``chunk_samples``;
- ``samples_per_second`` (the median repeat), ``slowest``, ``fastest``, ``real_time_factor``, ``first_chunk_seconds``,
  ``chunk_seconds``, ``flops`` (FLOP/s), ``share_of_limit`` with ``shares`` (in each repeat), ``weight_bytes_a_step``,
  ``weight_bytes_per_second``, ``share_of_copy``, ``times`` (as fast as each peer), ``repeats`` (a `Timing`).

Those of ``batch``, ``stream`` and ``mixed`` are what `measure_batch`, `measure_streams` and `measure_mixed` return.
Times are seconds, rates are a second's, shares lie between 0 and 1. Within a schema names are added, never taken away
or given another meaning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wavernn_trt.scripts.bench.circumstances import SCHEMA
from wavernn_trt.scripts.bench.names import ON_CPU, SCENARIOS, SUBJECTS

_LOOP = SUBJECTS["loop"]


def read_report(file: Path, option: str) -> dict[str, Any]:
    """Reads a report.

    Args:
        file: what ``--json`` wrote.
        option: of the command line, that named it.

    Raises:
        ValueError: it is no report, is damaged, or is of a schema from later on.
        OSError: it is not there.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: {file}: not JSON ({error}); expected what 'bench --json' wrote") from None
    if not isinstance(report, dict):
        raise ValueError(f"{option}: {file}: found something else, expected a report that 'bench --json' wrote")
    schema = report.get("schema", 1)
    if schema not in (1, SCHEMA):
        raise ValueError(
            f"{option}: {file}: found a report of schema {schema!r}, expected 1 or {SCHEMA}; read it with the version "
            "that wrote it, or measure again"
        )
    try:
        if report.setdefault("scenario", "speed") not in SCENARIOS:
            raise TypeError("scenario")
        report["results"] + []
        return report if schema == SCHEMA else _upgraded(report)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise damaged(file, option, error) from None


def damaged(file: Path, option: str, error: Exception) -> ValueError:
    """What to raise for a report in which something is missing or of another kind."""
    return ValueError(f"{option}: {file}: found no usable {error}, expected what 'bench --json' wrote")


def _upgraded(report: dict[str, Any]) -> dict[str, Any]:
    """A report of schema 1 as one of today's, which says of everything that it did not hold that it is not there."""
    model = report["model"]
    report |= {"schema": SCHEMA, "date": None, "gpu": None}
    report["model"] = {"name": Path(model["path"]).name if "path" in model else model["family"], **model}
    if report["scenario"] == "speed":
        report |= {"copy": None, "gpu_limit": None, "gpu_copy": None, "peers": [_LOOP], "precision": None}
        batches = list(dict.fromkeys(result["batch"] for result in report["results"]))
        for result in report["results"]:
            result |= {**_place(result["subject"]), "engine": None}
            times = result.pop("times_plain_loop", None)
            result["times"] = {} if times is None else {_LOOP: times}
            result["share_of_copy"] = None
            result["shares"] = _shares(report, result, batches.index(result["batch"]))
            if result["shares"] is None:
                result["share_of_limit"] = None
    elif report["scenario"] == "batch":
        for result in report["results"]:
            result |= {**_place(result["subject"]), "limit": None, "share_of_limit": None}
            result["scheduler"]["repeats"] = []
    return report


def _place(subject: str) -> dict[str, Any]:
    """Where it computes, and in what; schema 1 did not tell an engine's precision."""
    if subject in (*ON_CPU, _LOOP):
        return {"place": "cpu", "precision": "fp64" if subject == "torch" else "fp32"}
    return {"place": "gpu", "precision": None}


def _shares(report: dict[str, Any], result: dict[str, Any], place: int) -> list[float] | None:
    """Of the limit, in each repeat; ``None`` for GPUs, whose own limit was not measured."""
    rounds = report["limit"].get("repeats", {}).get(report["limit"]["library"])
    elapsed = result["repeats"].get("elapsed")
    if result["place"] == "gpu" or not rounds or not elapsed:
        return None
    operations = 2 * report["model"]["multiply_adds"] * result["samples"]
    return [operations / seconds / row[place] for seconds, row in zip(elapsed, rounds, strict=True)]
