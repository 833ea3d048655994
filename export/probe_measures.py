"""The measures of a probe, in numpy: the likelihood of samples, and their distance from a reference.

They compare single steps with the same samples before them. Free-running outputs of two correct implementations differ
completely after the first sample on which their rounding differs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import ModelConfig

LOGISTICS = 10
"""Components of a mixture."""
LOG_SCALE_FLOORS = {"logistic_mixture": math.log(1e-14), "gaussian": -7.0}
"""Lower limits of log-scales, as in sampling."""
_BIN = 2.0 / (2**16 - 1)
"""Width of a 16-bit step over [-1, 1], which converts a density to a probability."""


def bits_of_steps(model: ModelConfig, logits: NDArray[Any], samples: NDArray[Any]) -> DoubleArray:
    """Returns the negative log-likelihood of each sample, in bits.

    For mixtures it is that of the density at the sample times the width of a 16-bit step. Scoring
    (`calibration`) integrates over the step instead.

    Args:
        model: the meaning of the logits.
        logits: the last layer's outputs, [n, outputs].
        samples: [n], int labels or float values in [-1, 1].

    Returns:
        float64 [n].
    """
    values = logits.astype(np.float64)
    if model.output == "categorical":
        chosen = np.take_along_axis(values, samples[:, None].astype(np.int64), axis=1)[:, 0]
        return (log_sum_exp(values) - chosen) / math.log(2.0)
    log_weights, means, log_scales = _components(model, values)
    centred = (samples.astype(np.float64)[:, None] - means) / np.exp(log_scales)
    if model.output == "logistic_mixture":
        log_density = -centred - 2.0 * np.logaddexp(0.0, -centred)
    else:
        log_density = -(centred**2) / 2 - math.log(2 * math.pi) / 2
    return -(log_sum_exp(log_weights + log_density - log_scales) + math.log(_BIN)) / math.log(2.0)


def displacements(
    model: ModelConfig, logits: NDArray[Any], numbers: NDArray[np.float32], samples: NDArray[Any]
) -> DoubleArray:
    """Returns the distance of each sample from the one that its random numbers draw.

    A class is drawn by the random numbers between two values of the cumulative distribution. The displacement is the
    number's distance from that interval, as a probability: 0 for the class that it draws, and for another class the
    least error of the distribution that explains it. For mixtures it is half the difference of the values (which span
    2), or the displacement of the component if that is larger, for the component that explains the sample best.

    Args:
        model: the meaning of the logits.
        logits: the reference's last layer, [n, outputs], with the same samples before each step.
        numbers: the decoder's random numbers, [n, U].
        samples: the decoder's samples, [n].

    Returns:
        float64 [n], from 0 to 1.
    """
    values = logits.astype(np.float64)
    if model.output == "categorical":
        below, above = _boundaries(values)
        chosen = samples[:, None].astype(np.int64)
        lower, upper = np.take_along_axis(below, chosen, axis=1), np.take_along_axis(above, chosen, axis=1)
        return _outside(numbers[:, :1].astype(np.float64), lower, upper)[:, 0]
    log_weights, means, log_scales = _components(model, values)
    drawn = np.clip(means + np.exp(log_scales) * numbers[:, 1:2], -1.0, 1.0)  # [n, components]
    away = np.abs(samples.astype(np.float64)[:, None] - drawn) / 2
    if model.output == "logistic_mixture":
        away = np.maximum(away, _outside(numbers[:, :1].astype(np.float64), *_boundaries(log_weights)))
    nearest: DoubleArray = away.min(axis=1)
    return nearest


def _components(model: ModelConfig, values: DoubleArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Returns normalised log-weights, means and log-scales, each [n, components]."""
    if model.output == "gaussian":
        mean, log_scale = values[:, :1], values[:, 1:]
        weights = np.zeros_like(mean)
    else:
        weights, mean, log_scale = np.split(values, [LOGISTICS, 2 * LOGISTICS], axis=1)
        weights = weights - log_sum_exp(weights)[:, None]
    return weights, mean, np.maximum(log_scale, LOG_SCALE_FLOORS[model.output])


def _boundaries(logits: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Returns the cumulative probabilities below and above each class, [n, classes]."""
    likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
    above = np.cumsum(likelihood, axis=1)
    above /= above[:, -1:]
    return np.pad(above[:, :-1], ((0, 0), (1, 0))), above


def _outside(numbers: DoubleArray, lower: DoubleArray, upper: DoubleArray) -> DoubleArray:
    return np.maximum(np.maximum(lower - numbers, numbers - upper), 0.0)


def log_sum_exp(values: DoubleArray) -> DoubleArray:
    """Returns log(sum(exp(values))) over the last axis."""
    highest = values.max(axis=-1)
    sums: DoubleArray = highest + np.log(np.exp(values - highest[..., None]).sum(axis=-1))
    return sums
