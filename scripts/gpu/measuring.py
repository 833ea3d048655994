"""Medians: how often something is timed, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from wavernn_trt.scripts.gpu.tasks import MissingError, Settings

RUNS, WARM_UP = 20, 3
SHORT_RUNS = 7
"""Of what is only to be ranked."""


def repeats(measure: Callable[[], float], runs: int | None = None) -> list[float]:
    """Measures so many times (`RUNS`, unless given) after a warm-up."""
    for _ in range(WARM_UP):
        measure()
    return [measure() for _ in range(runs or RUNS)]


def speeds(values: list[float]) -> dict[str, Any]:
    """Samples a second, as findings have them."""
    return {
        "samples_per_second": median(values),
        "slowest": min(values),
        "fastest": max(values),
        "repeats": values,
    }


def require_proved(settings: Settings, subject: str) -> None:
    """Raises a `MissingError` where something was not found to be right."""
    if subject not in settings.proved:
        raise MissingError("not timed: its cases were not all right, or not run")
