"""Clipping bounds of each method, against the values themselves and against ONNX Runtime's calibrator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wavernn_trt.calibration.bounds import (
    CANDIDATES,
    DEAD_BOUND,
    PERCENTILE,
    entropy_bound,
    find_bounds,
    mse_bound,
    percentile_bound,
)
from wavernn_trt.calibration.histogram import Histogram
from wavernn_trt.calibration.table import METHODS
from wavernn_trt.export.grids import round_activations
from wavernn_trt.export.quantization import LARGEST, Grid, Product

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "heavy": lambda rng, n: rng.standard_t(4, size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "rectified": lambda rng, n: np.maximum(rng.normal(size=n), 0),
}


def draw(shape: str, count: int = 20_000, seed: int = 0) -> NDArray[np.float32]:
    return SHAPES[shape](np.random.default_rng(seed), count).astype(np.float32)


def raw_error(values: NDArray[np.float32], product: Product) -> float:
    difference = round_activations(values, product).astype(np.float64) - values
    return float((difference**2).mean())


@settings(max_examples=15)
@given(st.lists(st.floats(-100, 100, width=32) | st.just(0.0), max_size=30), st.booleans())
def test_every_bound_can_be_used_to_round_any_values(values: list[float], state: bool) -> None:
    bounds = find_bounds(Histogram.of(np.array(values, np.float32)), state=state)
    assert list(bounds) == list(LARGEST)
    for grid, found in bounds.items():
        assert list(found) == list(METHODS)
        for bound in found.values():
            product = Product(grid, bound)
            assert np.isfinite(round_activations(np.array(values, np.float32), product)).all()
            assert not state or bound <= 1.0


@pytest.mark.parametrize("grid", LARGEST)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_bound_exceeds_the_largest_magnitude(shape: str, grid: Grid) -> None:
    values = draw(shape)
    bounds = find_bounds(Histogram.of(values))[grid]
    assert bounds["minmax"] == np.abs(values).max()
    assert max(bounds.values()) == bounds["minmax"]


def test_a_recurrent_state_is_bounded_by_one_even_if_only_smaller_values_were_counted() -> None:
    quiet, rounded_up = (np.linspace(-top, top, 999, dtype=np.float32) for top in (0.3, 1.0000001))
    for grid in LARGEST:
        assert find_bounds(Histogram.of(quiet), state=True)[grid]["minmax"] == 1.0
        assert find_bounds(Histogram.of(quiet))[grid]["minmax"] == np.float32(0.3)
        assert max(find_bounds(Histogram.of(rounded_up), state=True)[grid].values()) == 1.0
    constant = find_bounds(Histogram.of(np.full(1000, 0.3, np.float32)), state=True)["int8"]
    assert constant["minmax"] == constant["percentile"] == 1.0


@pytest.mark.parametrize("values", [[], [0.0] * 100, [1e-20, -1e-30]])
def test_activations_that_are_all_zero_have_the_default_bound(values: list[float]) -> None:
    for found in find_bounds(Histogram.of(np.array(values, np.float32))).values():
        assert set(found.values()) == {DEAD_BOUND}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_percentile_bound_is_within_a_bin_of_the_values_percentile(shape: str) -> None:
    histogram = Histogram.of(values := draw(shape))
    for percentile in (PERCENTILE, 99.0, 100.0):
        bound = percentile_bound(histogram, percentile)
        seen = np.abs(values)[np.abs(values) >= histogram.width]  # smaller ones are counted with the zeros
        expected = np.percentile(seen, percentile, method="inverted_cdf")
        assert expected <= bound <= expected + histogram.width


@pytest.mark.parametrize("grid", LARGEST)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mse_bound_has_almost_the_least_error_of_all_candidates(shape: str, grid: Grid) -> None:
    values = draw(shape)
    largest = float(np.abs(values).max())
    candidates = [largest * part / CANDIDATES for part in range(1, CANDIDATES + 1)]
    errors = [raw_error(values, Product(grid, bound)) for bound in candidates]
    found = raw_error(values, Product(grid, mse_bound(Histogram.of(values), grid)))
    assert found <= min(errors) * 1.005


def test_an_outlier_is_clipped_where_that_lowers_the_total_error() -> None:
    values = np.append(draw("normal"), np.float32(1000.0))
    few, many = Histogram.of(values), Histogram.of(np.append(values, draw("normal", 2_000_000)))
    assert mse_bound(few, "int8") > 900  # the outlier would lose more than 20,000 values gain
    assert mse_bound(many, "fp8") > 900
    several = Histogram.of(np.append(draw("normal", 2_000_000), np.float32([20.0])))
    assert 3 < mse_bound(several, "int8") < 10
    assert entropy_bound(several, "int8") < 10
    assert percentile_bound(several) < 5


@pytest.mark.parametrize("shape", ["laplace", "heavy"])
def test_the_entropy_bound_is_near_that_of_onnx_runtimes_calibrator(shape: str) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="the calibrator needs onnx")
    values = draw(shape, 200_000)
    levels = 2 * 127 + 1  # of both signs
    collector = calibrate.HistogramCollector("entropy", False, 2048, levels, PERCENTILE, "same")
    collector.collect_value({"x": values})
    _, theirs = collector.get_entropy_threshold(collector.histogram_dict["x"], levels)
    # It has half as many bins, equal intervals of whole bins, and smooths empty bins.
    assert entropy_bound(Histogram.of(values), "int8") == pytest.approx(float(theirs), rel=0.2)


def test_the_zeros_of_a_relu_do_not_change_the_entropy_bound() -> None:
    positive = np.abs(draw("normal"))
    zeros = np.zeros(10 * len(positive), np.float32)
    for grid in LARGEST:
        assert entropy_bound(Histogram.of(np.append(positive, zeros)), grid) == entropy_bound(
            Histogram.of(positive), grid
        )


def test_the_bound_of_a_single_magnitude_is_that_magnitude() -> None:
    for grid in LARGEST:
        assert entropy_bound(Histogram.of(np.full(9, -3.0, np.float32)), grid) == 3.0
    histogram = Histogram.of(np.concatenate([np.zeros(200_000), np.full(10, 3.0)]).astype(np.float32))
    assert find_bounds(histogram)["int8"]["percentile"] == pytest.approx(3.0, abs=1e-3)
