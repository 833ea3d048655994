"""What was asked for lately counts, and what is long past counts little."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavernn_trt.runtime.models.demand import Demand
from wavernn_trt.runtime.models.shelf import ModelKey

ALTO, BASS = ModelKey("alto", "1"), ModelKey("bass", "1")


def test_a_request_counts_half_after_the_half_life() -> None:
    demand = Demand(half_life=10)
    for now in (0.0, 0.0, 10.0):
        demand.add(ALTO, Path("alto"), 7, now)
    demand.add(BASS, Path("bass"), 8, 20.0)
    assert demand.counts(10.0)[ALTO] == pytest.approx(2.0)
    assert demand.counts(20.0) == pytest.approx({ALTO: 1.0, BASS: 1.0})
    assert demand.counts(1e9) == {ALTO: 0.0, BASS: 0.0}


def test_it_says_where_a_model_is_and_forgets() -> None:
    demand = Demand(half_life=10)
    demand.add(ALTO, Path("alto"), 7, 0.0)
    demand.resize(ALTO, 9)
    demand.resize(BASS, 9)
    assert demand.place(ALTO) == (Path("alto"), 9)
    demand.forget(ALTO)
    demand.forget(BASS)
    assert demand.counts(0.0) == {}


def test_it_keeps_the_most_requested_of_very_many() -> None:
    demand = Demand(half_life=10)
    for _ in range(2):
        demand.add(ALTO, Path("alto"), 7, 0.0)
    for i in range(1000):
        demand.add(ModelKey(f"voice {i}"), Path("other"), 7, 0.0)
    assert len(demand.counts(0.0)) == 256
    assert demand.counts(0.0)[ALTO] == 2.0
