"""From how often magnitudes were seen to the bound of a grid: activations are clipped beyond it, and rounded below.

``minmax``
    The largest magnitude that was seen.
``percentile``
    The magnitude that 99.99 per cent of the values that are not zero do not exceed.
``entropy``
    The bound at which the least information is lost: the divergence (Kullback-Leibler) of the distribution as the grid
    shows it from the distribution that was seen, as TensorRT's calibrator had it (Migacz, "8-bit inference with
    TensorRT", GTC 2017). The grid's codes take the place of its equal intervals, so that fp8 has a meaning too: what is
    near zero loses nothing there, and the bound stays near the largest magnitude.
``mse``
    The bound at which rounded values differ least from what they were, by the mean of the squares.

Which of them a quantisation takes by default, `wavernn_trt.calibration.table` says.

A recurrent state cannot leave [-1, 1], whatever is spoken. What reads nothing else needs no bound beyond one; and has
one by minmax and percentile, since what was not seen may still come, and a state that is clipped costs much.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.calibration.histogram import BINS, LOWEST_EXPONENT, Histogram
from wavernn_trt.calibration.table import Method
from wavernn_trt.export.grids import encode, round_activations
from wavernn_trt.export.quantization import LARGEST, Grid, Product

FloatArray = NDArray[np.float64]

PERCENTILE = 99.99
"""Per cent."""
STATE_BOUND = 1.0
"""Of a recurrent state: a mean of what it was and of a hyperbolic tangent."""
DEAD_BOUND = 1.0
"""Where nothing but zeros was seen. Any would round them to zero; this one does so to little else that may come."""
CANDIDATES = 256
"""Bounds that are tried: so many equal parts of the largest magnitude, one after the other."""
_ENTROPY_BINS = 2048
"""TensorRT's."""
_FEWEST_BINS = 128
"""TensorRT's: a range of fewer bins than the grid has codes loses nothing, and would always win."""


def find_bounds(histogram: Histogram, *, state: bool = False) -> Mapping[Grid, Mapping[Method, float]]:
    """The bound that each method finds for each grid.

    Args:
        histogram: of a product's activations; what is empty or all zeros has `DEAD_BOUND`.
        state: whether they are of nothing but a recurrent state.

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
    """The upper edge of the first bin up to which there are as many values; or the largest, where that is less.

    The first bin is left out, for the zeros in it: a ReLU that is seldom open would have nothing else.
    """
    counts = np.concatenate([[0], histogram.counts[1:]])
    wanted = max(1, int(np.ceil(counts.sum() * percentile / 100)))
    place = min(int(np.searchsorted(np.cumsum(counts), wanted)), BINS - 1)
    return min((place + 1) * histogram.width, histogram.largest)


def mse_bound(histogram: Histogram, grid: Grid) -> float:
    """The candidate with the least mean squared error; the largest of those that are as good as each other."""
    seen = histogram.counts > 0
    centres, counts = histogram.centres[seen], histogram.counts[seen]
    return min(_candidates(histogram), key=lambda bound: squared_error(centres, counts, Product(grid, bound)))


def squared_error(values: FloatArray, counts: NDArray[np.int64], product: Product) -> float:
    """The sum of the squares of what rounding changes.

    Args:
        values: [n].
        counts: [n], how often each occurs.
        product: says what they are rounded to.
    """
    difference = round_activations(values.astype(np.float32), product) - values
    return float(np.dot(counts, difference**2))


def entropy_bound(histogram: Histogram, grid: Grid) -> float:
    """The candidate whose divergence is the least; the largest of those that are as good as each other."""
    merged = histogram.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1)
    # As NVIDIA's tools do: the zeros that a ReLU leaves are on every grid, and would drown what is not.
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
    """Of a distribution from what its codes tell of it: each code's share, spread over the bins that have any.

    Args:
        counts: of each bin below the bound.
        beyond: how many values lie above; they are clipped to the last bin.
        codes: of each bin, ascending.
    """
    seen = counts.astype(np.float64)
    seen[-1] += beyond
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    occupied = seen > 0
    sizes = np.diff(np.append(first, len(counts)))
    bins = np.add.reduceat(occupied.astype(np.int64), first)
    shares = np.add.reduceat(counts, first) / np.maximum(bins, 1)
    told = np.where(occupied, np.repeat(shares, sizes), 0.0)
    if not told.sum() or (told[occupied] == 0).any():
        return float(np.inf)  # something was seen where the codes tell of nothing
    p, q = seen[occupied] / seen.sum(), told[occupied] / told.sum()
    return float((p * np.log(p / q)).sum())


def _candidates(histogram: Histogram) -> list[float]:
    return [histogram.largest * part / CANDIDATES for part in range(CANDIDATES, 0, -1)]
