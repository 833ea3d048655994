"""Reports of ``--json``: their contents, their reader, and the costs that ``--price`` adds.

Every report has ``schema``, ``scenario``, ``date`` (UTC), ``machine``, ``gpu`` (its state before and after, and the
reasons that limited its clocks), ``others_share`` (share of all cores used by other processes), ``versions``,
``model``, ``threads``, ``results`` (a row for each backend or peer and batch) and ``missing`` (what was not measured,
with the reason); with ``--price`` also ``price`` and a ``cost`` in each row, with ``--compare`` a ``comparison``.

Reports of the scenario ``speed`` also have ``repeats``, ``seconds``, ``precision``, ``numpy_threads``, ``peers``,
``loads`` and the limits ``limit``, ``copy``, ``gpu_limit``, ``gpu_copy`` and ``cpu_limit`` (of `own_limit`: the
instruction set, multiply-adds of floats and of integers, and reads of weights of each size). Their rows:

- ``subject``, ``batch``, ``place`` (``cpu`` or ``gpu``), ``precision``, ``engine``, ``samples`` (of a repeat),
  ``chunk_samples``;
- ``samples_per_second`` (the median repeat), ``slowest``, ``fastest``, ``real_time_factor``, ``first_chunk_seconds``,
  ``chunk_seconds``, ``flops`` (FLOP/s), ``share_of_limit`` (of the matrix product) with ``shares`` (in each repeat),
  ``own_limit``, ``weight_bytes_a_step``, ``weight_bytes_per_second``, ``share_of_copy``, ``times`` (speed divided by
  each peer's and by onnxruntime's), ``repeats`` (a `Timing`).

``own_limit`` is ``None`` on a GPU and where it was not measured. Else a step takes at least ``read_seconds`` for its
weights and ``product_seconds`` for its multiply-adds: ``binds`` names the longer (``reads`` or ``products``), and
``samples_per_second`` is the speed that it allows, ``share`` the reached part, with ``shares`` in each repeat.

Rows of ``batch``, ``stream`` and ``mixed`` are returned by `measure_batch`, `measure_streams` and `measure_mixed`.
Times are in seconds, rates are per second, shares are between 0 and 1. Within a schema names may be added, but are
neither removed nor given another meaning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMA = 2
SCENARIOS = ("speed", "batch", "stream", "mixed")
HOURS = 1000
"""Hours of speech for which costs are given."""


def read_report(file: Path, option: str) -> dict[str, Any]:
    """Reads a report.

    Args:
        file: written by ``--json``.
        option: the option that named the file, for errors.

    Raises:
        ValueError: the file is not a report, is damaged, or has another schema.
        OSError: the file cannot be read.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: {file}: not JSON ({error}); expected what 'bench --json' wrote") from None
    if not isinstance(report, dict):
        raise ValueError(f"{option}: {file}: found something else, expected a report that 'bench --json' wrote")
    if (schema := report.get("schema")) != SCHEMA:
        raise ValueError(
            f"{option}: {file}: found {'no schema' if schema is None else f'a report of schema {schema!r}'}, expected "
            f"{SCHEMA}; read it with the version that wrote it, or measure again"
        )
    try:
        if report["scenario"] not in SCENARIOS:
            raise TypeError("scenario")
        report["results"] + []
    except (KeyError, TypeError) as error:
        raise damaged(file, option, error) from None
    return report


def damaged(file: Path, option: str, error: Exception) -> ValueError:
    """Returns the error for a report in which a name is missing or its value has the wrong type."""
    return ValueError(f"{option}: {file}: found no usable {error}, expected what 'bench --json' wrote")


def add_costs(report: dict[str, Any], price: float, currency: str) -> None:
    """Adds the cost of `HOURS` hours of speech to each row of a report of ``speed`` or ``batch``.

    Args:
        report: the report.
        price: of an hour of the machine.
        currency: unit of the price.
    """
    report["price"] = {"an_hour": price, "currency": currency, "hours_of_speech": HOURS}
    for result in report["results"]:
        speed = (result if report["scenario"] == "speed" else result["scheduler"])["samples_per_second"]
        result["cost"] = price * HOURS * report["model"]["sample_rate"] / speed if speed else None
