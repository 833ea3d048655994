"""Recent requests count, and those long past count little."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavernn_trt.runtime.models.preheating import AccessHeat
from wavernn_trt.runtime.models.source import ModelKey

ALTO, BASS = ModelKey("alto", "1"), ModelKey("bass", "1")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_counts_half_after_the_half_life() -> None:
    clock = Clock()
    heat = AccessHeat(10, clock)
    for clock.now in (0.0, 0.0, 10.0):
        heat.add(ALTO, Path("alto"), 7)
    assert heat.counts() == {ALTO: pytest.approx(2.0)}
    clock.now = 20.0
    heat.add(BASS, Path("bass"), 8)
    assert heat.counts() == pytest.approx({ALTO: 1.0, BASS: 1.0})
    clock.now = 1e9
    assert heat.counts() == {ALTO: 0.0, BASS: 0.0}


def test_it_knows_where_a_model_is_and_forgets() -> None:
    heat = AccessHeat(10, Clock())
    heat.add(ALTO, Path("alto"), 7)
    heat.resize(ALTO, 9)
    heat.resize(BASS, 9)
    assert heat.place(ALTO) == (Path("alto"), 9)
    heat.forget(ALTO)
    heat.forget(BASS)
    assert heat.counts() == {}


def test_it_keeps_the_most_requested_of_very_many() -> None:
    heat = AccessHeat(10, Clock())
    for _ in range(2):
        heat.add(ALTO, Path("alto"), 7)
    for i in range(1000):
        heat.add(ModelKey(f"voice {i}"), Path("other"), 7)
    assert len(heat.counts()) == 256
    assert heat.counts()[ALTO] == 2.0
