"""How surprised a model is by a sample, in bits.

A class costs -log2 of its softmax probability. A density is a density over real numbers, and so has no cost until it is
cut into bins: as in PixelCNN++ (Salimans et al., 2017, section 2.1), a sample costs -log2 of the probability of its
bin, here of a 16-bit one, and the outermost bins reach to infinity. Bits of models whose
bins differ do not compare: a class of an 8-bit model is some 256 times as wide as a 16-bit bin, and 8 bits cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig

Array = NDArray[np.float64]

BINS = 2**16
"""Bins of a density over [-1, 1]."""
HALF_BIN = 1.0 / (BINS - 1)
"""Half the width of a bin; the first is centred on -1 and the last on 1."""
LOGISTICS = 10
"""Components of a mixture."""
LOG_SCALE_FLOOR = math.log(1e-14)
"""Of a logistic, as in sampling."""
LOG_DEVIATION_FLOOR = -7.0
"""Of a Gaussian, as in sampling; its deviation is then at least 30 bins."""


def bits_of_samples(model: ModelConfig, logits: NDArray[np.float32], samples: NDArray[Any]) -> Array:
    """The negative log-likelihood of each sample.

    Args:
        model: how the logits are read.
        logits: the last layer's outputs, [n, outputs].
        samples: [n], int labels or float values in [-1, 1].

    Returns:
        float64 [n], bits.
    """
    cost: Callable[[Array, NDArray[Any]], Array] = {
        "categorical": _of_labels,
        "logistic_mixture": _of_logistic_mixture,
        "gaussian": _of_gaussian,
    }[model.output]
    bits: Array = -cost(logits.astype(np.float64), samples) / math.log(2.0)
    return bits


def _of_labels(logits: Array, labels: NDArray[Any]) -> Array:
    chosen = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)[:, 0]
    return chosen - _log_sum_exp(logits)


def _of_logistic_mixture(outputs: Array, values: NDArray[Any]) -> Array:
    weights, means, log_scales = np.split(outputs, [LOGISTICS, 2 * LOGISTICS], axis=1)
    scales = np.exp(np.maximum(log_scales, LOG_SCALE_FLOOR))
    centred = values.astype(np.float64)[:, None] - means
    lower, upper = (centred - HALF_BIN) / scales, (centred + HALF_BIN) / scales
    below, above = _log_sigmoid(upper), _log_sigmoid(-lower)  # log P(under the bin's top), log P(over its bottom)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), where no digits cancel.
    inside = below + above + np.log(-np.expm1(-2.0 * HALF_BIN / scales))
    lowest, highest = _outermost(values)
    inside = np.where(lowest[:, None], below, np.where(highest[:, None], above, inside))
    return _log_sum_exp(inside + weights) - _log_sum_exp(weights)


def _of_gaussian(outputs: Array, values: NDArray[Any]) -> Array:
    mean, log_deviation = outputs.T
    log_deviation = np.maximum(log_deviation, LOG_DEVIATION_FLOOR)
    centred = (values - mean) / np.exp(log_deviation)
    width = 2.0 * HALF_BIN / np.exp(log_deviation)
    # The integral of e^(-(z + t)^2 / 2) over a bin of width h, less its factor e^(-t^2 / 2): that is within h^2 / 8 of
    # one, or 0.0002 bits, since a bin is never wider than 0.034 deviations.
    slope = np.abs(centred) * width / 2
    tilt = slope + np.log(np.divide(-np.expm1(-2 * slope), 2 * slope, out=np.ones_like(slope), where=slope > 0))
    inside: Array = -(centred**2) / 2 - math.log(2 * math.pi) / 2 + np.log(width) + tilt
    for outermost, sign in zip(_outermost(values), (-1.0, 1.0), strict=True):
        for i in np.flatnonzero(outermost):
            inside[i] = _log_upper_tail(float(sign * centred[i] - width[i] / 2))
    return inside


def _outermost(values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return values <= HALF_BIN - 1.0, values >= 1.0 - HALF_BIN


def _log_upper_tail(x: float) -> float:
    """The logarithm of P(X > x) for a standard normal."""
    if x < 30.0:
        return math.log(math.erfc(x / math.sqrt(2.0)) / 2.0)
    return -x * x / 2 - math.log(x * math.sqrt(2.0 * math.pi))  # the first term of its asymptotic series


def _log_sigmoid(x: Array) -> Array:
    return -np.logaddexp(0.0, -x)


def _log_sum_exp(values: Array) -> Array:
    """Over the last axis."""
    highest = values.max(axis=-1)
    sums: Array = highest + np.log(np.exp(values - highest[..., None]).sum(axis=-1))
    return sums
