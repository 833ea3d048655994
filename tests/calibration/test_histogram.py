"""Histograms of magnitudes: exact counts, for any order and grouping of the values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.histogram import BINS, LOWEST_EXPONENT, Histogram

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
usual = st.floats(-64, 64, width=32)
arrays = st.lists(finite, max_size=40) | st.lists(usual, max_size=40)


def array(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def add_up(histograms: Iterable[Histogram]) -> Histogram:
    total = Histogram()
    for histogram in histograms:
        total += histogram
    return total


def same(one: Histogram, other: Histogram) -> bool:
    counts = bool((one.counts == other.counts).all())
    return counts and (one.exponent, one.largest) == (other.exponent, other.largest)


@given(arrays, st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=5))
def test_counts_do_not_depend_on_order_or_grouping(values: list[float], random: object, cuts: list[int]) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = np.split(array(shuffled), sorted(min(cut, len(values)) for cut in cuts))
    together = Histogram.of(array(values))
    one_by_one = Histogram()
    for part in parts:
        one_by_one.add(part)
    assert same(one_by_one, together)
    assert same(add_up(Histogram.of(part) for part in parts), together)
    assert same(add_up(Histogram.of(part) for part in reversed(parts)), together)


@given(arrays)
def test_a_bin_holds_the_magnitudes_between_its_edges(values: list[float]) -> None:
    histogram = Histogram.of(array(values))
    expected = np.zeros(BINS, np.int64)
    for value in values:
        expected[int(abs(value) / histogram.width)] += 1
    assert (histogram.counts == expected).all()
    assert histogram.values == len(values)
    assert histogram.largest == max((abs(value) for value in values), default=0.0)


@given(arrays)
def test_the_range_is_the_narrowest_with_the_largest_value(values: list[float]) -> None:
    histogram = Histogram.of(array(values))
    assert histogram.largest < 2.0**histogram.exponent
    assert histogram.exponent == LOWEST_EXPONENT or histogram.largest >= 2.0 ** (histogram.exponent - 1)


def test_a_power_of_two_is_in_the_next_range() -> None:
    for exponent in range(-40, 40):
        histogram = Histogram.of(array([2.0**exponent, 2.0 ** (exponent - 1)]))
        assert histogram.exponent == max(exponent + 1, LOWEST_EXPONENT)
        assert histogram.values == 2


def test_an_addition_changes_only_its_left_side() -> None:
    small, large = Histogram.of(array([0.25] * 3)), Histogram.of(array([100.0]))
    small += large
    assert (small.values, large.values) == (4, 1)
    assert small.counts[int(0.25 / small.width)] == 3
    total = add_up([large])
    total.add(array([1.0]))
    assert large.values == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_refused_and_not_counted(bad: float) -> None:
    histogram = Histogram.of(array([1.0]))
    with pytest.raises(CalibrationError, match="NaN or infinite"), np.errstate(over="ignore"):
        histogram.add(np.array([2.0, bad]))
    assert same(histogram, Histogram.of(array([1.0])))
