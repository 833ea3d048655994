"""How far what a model computes lies from what it should: the measures of a probe, in numpy.

They compare one step at a time, given the same samples before it. Free-running outputs of two right implementations
part after the first draw that falls between their roundings, and from then on have nothing to compare.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import ModelConfig

_LOGISTICS = 10
"""Components of a mixture."""
_LOG_SCALE_FLOORS = {"logistic_mixture": math.log(1e-14), "gaussian": -7.0}
"""As in sampling."""
_BIN = 2.0 / (2**16 - 1)
"""A step of 16 bits over [-1, 1]: what makes a probability of a density."""


def bits_of_steps(model: ModelConfig, logits: NDArray[Any], samples: NDArray[Any]) -> DoubleArray:
    """The negative log-likelihood of each sample, in bits.

    For mixtures, of the density at the sample times the width of a 16-bit step. Scoring integrates over the step, which
    differs where a component is narrower than that; here both sides of a comparison are taken alike.

    Args:
        model: says what the logits mean.
        logits: the last layer's outputs, [n, outputs].
        samples: [n], int labels or float values in [-1, 1].

    Returns:
        float64 [n].
    """
    values = logits.astype(np.float64)
    if model.output == "categorical":
        chosen = np.take_along_axis(values, samples[:, None].astype(np.int64), axis=1)[:, 0]
        return (_log_sum_exp(values) - chosen) / math.log(2.0)
    log_weights, means, log_scales = _components(model, values)
    centred = (samples.astype(np.float64)[:, None] - means) / np.exp(log_scales)
    if model.output == "logistic_mixture":
        log_density = -centred - 2.0 * np.logaddexp(0.0, -centred)
    else:
        log_density = -(centred**2) / 2 - math.log(2 * math.pi) / 2
    return -(_log_sum_exp(log_weights + log_density - log_scales) + math.log(_BIN)) / math.log(2.0)


def displacements(
    model: ModelConfig, logits: NDArray[Any], numbers: NDArray[np.float32], samples: NDArray[Any]
) -> DoubleArray:
    """How far each sample lies from what its random numbers draw.

    A class k is drawn by the random numbers between two values of the cumulative distribution. The displacement is how
    far the number lies outside them, as a probability: 0 for the class that it draws, and for a neighbour just as much
    as the distribution must have been wrong by. For mixtures it is half the difference of the values (which span 2), or
    that of the number to its component if it is more, for the component that explains the sample best.

    Args:
        model: says what the logits mean.
        logits: what the last layer should have given, [n, outputs], with the same samples before each step.
        numbers: what a decoder is given for random numbers, [n, U].
        samples: what came out, [n].

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
    """Normalised log-weights, means and log-scales, each [n, components]."""
    if model.output == "gaussian":
        mean, log_scale = values[:, :1], values[:, 1:]
        weights = np.zeros_like(mean)
    else:
        weights, mean, log_scale = np.split(values, [_LOGISTICS, 2 * _LOGISTICS], axis=1)
        weights = weights - _log_sum_exp(weights)[:, None]
    return weights, mean, np.maximum(log_scale, _LOG_SCALE_FLOORS[model.output])


def _boundaries(logits: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """The cumulative probabilities below and above each class, [n, classes]."""
    likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
    above = np.cumsum(likelihood, axis=1)
    above /= above[:, -1:]
    return np.pad(above[:, :-1], ((0, 0), (1, 0))), above


def _outside(numbers: DoubleArray, lower: DoubleArray, upper: DoubleArray) -> DoubleArray:
    return np.maximum(np.maximum(lower - numbers, numbers - upper), 0.0)


def _log_sum_exp(values: DoubleArray) -> DoubleArray:
    """Over the last axis."""
    highest = values.max(axis=-1)
    sums: DoubleArray = highest + np.log(np.exp(values - highest[..., None]).sum(axis=-1))
    return sums
