"""The negative log-likelihood of samples, in bits.

A class costs -log2 of its softmax probability. A density is first divided into bins: as in PixelCNN++ (Salimans et al.,
2017, section 2.1), a sample costs -log2 of the probability of its 16-bit bin, and the outermost bins extend to
infinity. Bits of models with different bins cannot be compared: a class of an 8-bit model is some 256 times as wide as
a 16-bit bin, and costs 8 bits less.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.probe_measures import LOG_SCALE_FLOORS, LOGISTICS, bits_of_steps, log_sum_exp

BINS = 2**16
"""Bins of a density over [-1, 1]."""
HALF_BIN = 1.0 / (BINS - 1)
"""Half the width of a bin; the first is centred on -1 and the last on 1."""


def bits_of_samples(model: ModelConfig, logits: NDArray[np.float32], samples: NDArray[Any]) -> DoubleArray:
    """Returns the negative log-likelihood of each sample.

    Args:
        model: the meaning of the logits.
        logits: the last layer's outputs, [n, outputs].
        samples: [n], int labels or float values in [-1, 1].

    Returns:
        float64 [n], bits.
    """
    if model.output == "categorical":
        return bits_of_steps(model, logits, samples)
    log_likelihood = _of_gaussian if model.output == "gaussian" else _of_logistic_mixture
    bits: DoubleArray = -log_likelihood(logits.astype(np.float64), samples) / math.log(2.0)
    return bits


def _of_logistic_mixture(outputs: DoubleArray, values: NDArray[Any]) -> DoubleArray:
    weights, means, log_scales = np.split(outputs, [LOGISTICS, 2 * LOGISTICS], axis=1)
    scales = np.exp(np.maximum(log_scales, LOG_SCALE_FLOORS["logistic_mixture"]))
    centred = values.astype(np.float64)[:, None] - means
    lower, upper = (centred - HALF_BIN) / scales, (centred + HALF_BIN) / scales
    below, above = _log_sigmoid(upper), _log_sigmoid(-lower)  # log P(under the bin's top), log P(over its bottom)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), without cancellation.
    inside = below + above + np.log(-np.expm1(-2.0 * HALF_BIN / scales))
    lowest, highest = _outermost(values)
    inside = np.where(lowest[:, None], below, np.where(highest[:, None], above, inside))
    return log_sum_exp(inside + weights) - log_sum_exp(weights)


def _of_gaussian(outputs: DoubleArray, values: NDArray[Any]) -> DoubleArray:
    mean, log_deviation = outputs.T
    log_deviation = np.maximum(log_deviation, LOG_SCALE_FLOORS["gaussian"])
    centred = (values - mean) / np.exp(log_deviation)
    width = 2.0 * HALF_BIN / np.exp(log_deviation)
    # The integral of e^(-(z + t)^2 / 2) over a bin of width h without its factor e^(-t^2 / 2), which is within h^2 / 8
    # of one, or 0.0002 bits, since a bin is at most 0.034 deviations wide.
    slope = np.abs(centred) * width / 2
    tilt = slope + np.log(np.divide(-np.expm1(-2 * slope), 2 * slope, out=np.ones_like(slope), where=slope > 0))
    inside: DoubleArray = -(centred**2) / 2 - math.log(2 * math.pi) / 2 + np.log(width) + tilt
    for outermost, sign in zip(_outermost(values), (-1.0, 1.0), strict=True):
        for i in np.flatnonzero(outermost):
            inside[i] = _log_upper_tail(float(sign * centred[i] - width[i] / 2))
    return inside


def _outermost(values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return values <= HALF_BIN - 1.0, values >= 1.0 - HALF_BIN


def _log_upper_tail(x: float) -> float:
    """Returns the logarithm of P(X > x) for a standard normal."""
    if x < 30.0:
        return math.log(math.erfc(x / math.sqrt(2.0)) / 2.0)
    return -x * x / 2 - math.log(x * math.sqrt(2.0 * math.pi))  # the first term of its asymptotic series


def _log_sigmoid(x: DoubleArray) -> DoubleArray:
    return -np.logaddexp(0.0, -x)
