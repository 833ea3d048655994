"""Bits of samples, against sums over all bins and against the formulas of the distributions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from wavernn_trt.calibration.likelihood import BINS, bits_of_samples
from wavernn_trt.export.config import ColumnGroup, ModelConfig

CLASSES = ModelConfig(
    family="fatchord",
    output="categorical",
    outputs=8,
    hidden_size=4,
    input_sizes=(4,),
    fc_sizes=(4,),
    groups=(ColumnGroup("mel", 4, "held"),),
)
LOGISTICS = dataclasses.replace(CLASSES, output="logistic_mixture", outputs=30)
GAUSSIAN = dataclasses.replace(CLASSES, output="gaussian", outputs=2)
GRID = np.linspace(-1.0, 1.0, BINS)


def mixture(seed: int, log_scale: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=10), rng.uniform(-1.2, 1.2, 10), rng.normal(log_scale, 0.5, 10)])


def test_the_bits_of_a_label_are_the_logarithm_of_its_probability() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.0625, 0.0625, 1e-9, 1e-9, 1e-9]], np.float32)) + 700
    for label, bits in enumerate((1, 2, 3, 4, 4)):
        assert bits_of_samples(CLASSES, logits, np.array([label]))[0] == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize("log_scale", [-9.0, -6.0, -3.0, 0.0, 3.0])
def test_the_probabilities_of_a_mixture_s_bins_add_up_to_one(log_scale: float) -> None:
    outputs = np.tile(mixture(1, log_scale), (BINS, 1)).astype(np.float32)
    bits = bits_of_samples(LOGISTICS, outputs, GRID)
    assert np.exp2(-bits).sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("mean", "log_deviation"), [(0.1, -7.0), (0.1, -20.0), (-0.99, -3.0), (1.3, -1.0), (0.0, 2.0)])
def test_the_probabilities_of_a_gaussian_s_bins_add_up_to_one(mean: float, log_deviation: float) -> None:
    outputs = np.tile(np.array([mean, log_deviation], np.float32), (BINS, 1))
    bits = bits_of_samples(GAUSSIAN, outputs, GRID)
    assert np.exp2(-bits).sum() == pytest.approx(1.0, abs=2e-4)


def test_the_probability_of_a_wide_logistic_s_bin_is_a_difference_of_its_distribution_function() -> None:
    outputs = mixture(2, -2.0)
    value, half = 0.25, 1 / (BINS - 1)
    weights = np.exp(outputs[:10]) / np.exp(outputs[:10]).sum()
    mean, scale = outputs[10:20], np.exp(outputs[20:])
    upper, lower = (1 / (1 + np.exp(-(value + sign * half - mean) / scale)) for sign in (1, -1))
    bits = bits_of_samples(LOGISTICS, outputs[None].astype(np.float32), np.array([value]))
    assert bits[0] == pytest.approx(-math.log2(float((weights * (upper - lower)).sum())), abs=1e-4)


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 1.0])
@pytest.mark.parametrize("config", [LOGISTICS, GAUSSIAN])
def test_improbable_samples_have_many_but_finite_bits(config: ModelConfig, value: float) -> None:
    far = np.concatenate([np.zeros(10), np.full(10, 0.7), np.full(10, -9.0)]) if config is LOGISTICS else [0.7, -9.0]
    bits = bits_of_samples(config, np.array([far], np.float32), np.array([value]))
    assert math.isfinite(bits[0])
    assert bits[0] > 100
