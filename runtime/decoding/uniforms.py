"""Random numbers for drawing samples.

They come from Philox, a counter-based generator, keyed by the utterance's seed and drawn in the order of the steps, so
that an utterance's waveform depends neither on other streams of its batch nor on the chunking.
"""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.errors import VocoderError

HIGHEST_CHOICE = np.float32(1 - 2.0**-23)
"""Largest u for classes. The drawn class is the first whose cumulative probability exceeds u times the total, so that
product must not round up to the total; a caller's u just below 1 would become 1 as a float32."""
LOGARITHM_MARGIN = 1e-5
"""Mixtures draw from [1e-5, 1 - 1e-5], as upstream does: ln u and ln(1 - u) are then finite."""
_SEEDS = 2**64


class UniformSource(Protocol):
    """Source of the random numbers of successive steps."""

    def draw(self, steps: int) -> FloatArray:
        """Returns the numbers of the next steps, float32 [steps, U]."""


class SeededUniforms:
    """Random numbers generated from a seed."""

    def __init__(self, model: ModelConfig, seed: int, fold: int = 0) -> None:
        """Starts at the first step.

        Args:
            model: sets the number of random numbers per sample.
            seed: 0 … 2**64 - 1.
            fold: index of the fold; the numbers of folds differ, and fold 0 has those of an unfolded utterance.

        Raises:
            VocoderError: the seed is not an integer in that range.
        """
        self._model = model
        key = check_seed(seed)
        self._generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, fold]))

    def draw(self, steps: int) -> FloatArray:
        return _clamp(self._model, self._generator.random((steps, self._model.uniforms), dtype=np.float32))


class GivenUniforms:
    """Random numbers given by the caller; steps after their end, whose samples are dropped, get 0.5."""

    def __init__(self, model: ModelConfig, uniforms: ArrayLike, steps: int) -> None:
        """Checks the numbers.

        Args:
            model: sets the number of random numbers per sample.
            uniforms: [n] or [n, 1] for classes, [n, 2] for mixtures, each in [0, 1).
            steps: the utterance's steps, at most ``n``.

        Raises:
            VocoderError: wrong shape, too few, or out of range.
        """
        width = model.uniforms
        shape = "[steps] or [steps, 1]" if width == 1 else "[steps, 2]"
        try:
            values = np.asarray(uniforms, dtype=np.float64)
        except (TypeError, ValueError):
            raise VocoderError(f"uniforms: found {type(uniforms).__name__}, expected numbers {shape}") from None
        if values.ndim == 1 and width == 1:
            values = values[:, None]
        if values.ndim != 2 or values.shape[1] != width:
            raise VocoderError(f"uniforms: found shape {values.shape}, expected {shape} with {steps} steps")
        if len(values) < steps:
            raise VocoderError(f"uniforms: found {len(values)} steps, expected at least {steps}")
        if not ((values >= 0) & (values < 1)).all():
            raise VocoderError("uniforms: found values outside [0, 1), expected all at least 0 and below 1")
        self._values = _clamp(model, values.astype(np.float32))
        self._next = 0

    def restarted(self) -> GivenUniforms:
        """Returns a source of the same numbers that starts at the first step."""
        other = copy.copy(self)
        other._next = 0
        return other

    def draw(self, steps: int) -> FloatArray:
        taken = self._values[self._next : self._next + steps]
        self._next += steps
        return np.pad(taken, ((0, steps - len(taken)), (0, 0)), constant_values=0.5)


def sampling_inputs(model: ModelConfig, uniforms: FloatArray) -> FloatArray:
    """Converts random numbers, float32 [steps, U], to the decoder's inputs of the same shape.

    Classes are drawn with u itself. Mixtures also need a deviate, computed here: ln v - ln(1 - v) for logistics, the
    Box-Muller transform for Gaussians. Vectorised logarithms may round differently at different positions of an array,
    and inside a decoder the position depends on the number of streams; here every stream has its own array.
    """
    if model.output == "categorical":
        return uniforms
    first, second = uniforms.astype(np.float64).T
    if model.output == "logistic_mixture":
        deviates = np.log(second) - np.log1p(-second)
    else:
        deviates = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    return np.stack([uniforms[:, 0], deviates.astype(np.float32)], axis=1)


def check_seed(seed: int) -> int:
    """Returns the seed as a Python integer.

    Raises:
        VocoderError: the seed is not an integer from 0 to 2**64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < _SEEDS:
        raise VocoderError(f"seed: found {seed!r}, expected an integer from 0 to 2**64 - 1")
    return int(seed)


def _clamp(model: ModelConfig, uniforms: FloatArray) -> FloatArray:
    if model.output != "gaussian":
        np.minimum(uniforms[:, 0], HIGHEST_CHOICE, out=uniforms[:, 0])
    if model.output != "categorical":
        column = uniforms[:, 1 if model.output == "logistic_mixture" else 0]
        np.clip(column, np.float32(LOGARITHM_MARGIN), np.float32(1 - LOGARITHM_MARGIN), out=column)
    return uniforms
