"""Computes the clipping bound of a grid from a histogram of magnitudes.

``minmax``
    The largest magnitude.
``percentile``
    The 99.99th percentile of the values that are not zero.
``entropy``
    The bound with the least Kullback-Leibler divergence between the rounded and the original distribution, as in
    TensorRT's calibrator (Migacz, "8-bit inference with TensorRT", GTC 2017). The grid's codes replace its equal
    intervals, so that the method also works for fp8, whose bound stays near the largest magnitude.
``mse``
    The bound with the least mean squared rounding error.

`wavernn_trt.calibration.table.DEFAULT_METHODS` has the default for each grid.

A recurrent state always lies in [-1, 1]. A product that reads nothing else has a bound of at most one. By minmax and
percentile it is exactly one, since other inputs may reach larger states, and clipping a state costs much.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.calibration.histogram import BINS, LOWEST_EXPONENT, Histogram
from wavernn_trt.calibration.table import Method
from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.grids import encode, round_activations
from wavernn_trt.export.quantization import LARGEST, Grid, Product

PERCENTILE = 99.99
"""Per cent."""
STATE_BOUND = 1.0
"""Bound of a recurrent state, which is a mean of the previous state and a hyperbolic tangent."""
DEAD_BOUND = 1.0
"""Bound of activations that were all zero."""
CANDIDATES = 256
"""Number of bounds that ``mse`` tries, evenly spaced up to the largest magnitude."""
_ENTROPY_BINS = 2048
"""As in TensorRT."""
_FEWEST_BINS = 128
"""As in TensorRT; a range of fewer bins than the grid has codes would lose nothing and always be chosen."""


def find_bounds(histogram: Histogram, *, state: bool = False) -> Mapping[Grid, Mapping[Method, float]]:
    """Returns the bound of each method for each grid.

    Args:
        histogram: of a product's activations; an empty or all-zero one gets `DEAD_BOUND`.
        state: whether the activations are a recurrent state only.

    Returns:
        Positive numbers.
    """
    found: dict[Grid, dict[Method, float]] = {}
    for grid in LARGEST:
        if histogram.exponent == LOWEST_EXPONENT:
            found[grid] = dict.fromkeys(("minmax", "percentile", "entropy", "mse"), DEAD_BOUND)
            continue
        bounds: dict[Method, float] = {
            "minmax": STATE_BOUND if state else histogram.largest,
            "percentile": STATE_BOUND if state else percentile_bound(histogram),
            "entropy": entropy_bound(histogram, grid),
            "mse": mse_bound(histogram, grid),
        }
        found[grid] = {method: min(bound, STATE_BOUND) if state else bound for method, bound in bounds.items()}
    return found


def percentile_bound(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """Returns the upper edge of the bin that contains a percentile, at most the largest magnitude.

    The first bin is left out, because the zeros of a ReLU would dominate it.
    """
    counts = np.concatenate([[0], histogram.counts[1:]])
    rank = max(1, int(np.ceil(counts.sum() * percentile / 100)))
    index = min(int(np.searchsorted(np.cumsum(counts), rank)), BINS - 1)
    return min((index + 1) * histogram.width, histogram.largest)


def mse_bound(histogram: Histogram, grid: Grid) -> float:
    """Returns the candidate with the least mean squared error; the largest of equally good ones."""
    seen = histogram.counts > 0
    centres, counts = histogram.centres[seen], histogram.counts[seen]
    candidates = [histogram.largest * part / CANDIDATES for part in range(CANDIDATES, 0, -1)]
    return min(candidates, key=lambda bound: squared_error(centres, counts, Product(grid, bound)))


def squared_error(values: DoubleArray, counts: NDArray[np.int64], product: Product) -> float:
    """Returns the sum of squared rounding errors.

    Args:
        values: [n].
        counts: [n], the number of occurrences of each value.
        product: the grid and bound.
    """
    difference = round_activations(values.astype(np.float32), product) - values
    return float(np.dot(counts, difference**2))


def entropy_bound(histogram: Histogram, grid: Grid) -> float:
    """Returns the range of bins with the least divergence; the largest of equally good ones."""
    merged = histogram.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1)
    # As in NVIDIA's tools: the zeros of a ReLU are exact on every grid, and would outweigh all other values.
    merged[0] = merged[1]
    if not merged.any():
        return histogram.largest
    width = histogram.width * (BINS // _ENTROPY_BINS)
    centres = (np.arange(_ENTROPY_BINS) + 0.5) * width
    last = int(np.flatnonzero(merged)[-1])
    best, least = histogram.largest, np.inf
    for bins in range(last + 1, min(_FEWEST_BINS, last + 1) - 1, -1):
        bound = min(bins * width, histogram.largest)
        codes = encode(centres[:bins], bound / LARGEST[grid], grid)
        divergence = _divergence(merged[:bins], int(merged[bins:].sum()), codes)
        if divergence < least:
            best, least = bound, divergence
    return best


def _divergence(counts: NDArray[np.int64], beyond: int, codes: NDArray[np.generic]) -> float:
    """Returns the divergence of the rounded from the original distribution.

    The rounded one spreads the values of each code evenly over the code's occupied bins.

    Args:
        counts: values in each bin below the bound.
        beyond: number of values above the bound, which are clipped to the last bin.
        codes: code of each bin, ascending.
    """
    original = counts.astype(np.float64)
    original[-1] += beyond
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    occupied = original > 0
    sizes = np.diff(np.append(first, len(counts)))
    bins = np.add.reduceat(occupied.astype(np.int64), first)
    shares = np.add.reduceat(counts, first) / np.maximum(bins, 1)
    rounded = np.where(occupied, np.repeat(shares, sizes), 0.0)
    if not rounded.sum() or (rounded[occupied] == 0).any():
        return float(np.inf)
    p, q = original[occupied] / original.sum(), rounded[occupied] / rounded.sum()
    return float((p * np.log(p / q)).sum())
