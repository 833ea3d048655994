"""Conversion between a model's samples (labels or mixture values) and waveform amplitudes.

`ModelConfig.label_scale` names the companded value of a label: ``symmetric`` in all projects but UniversalVocoding 0.2,
whose code decodes with librosa's scale. mu is C - 1 for C classes. Samples of mixtures are amplitudes already.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.plugins.cpu.library import NativeLibraryError, native_library
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import pre_emphasis

_ROUNDING = 1e-6
"""Tolerance beyond [-1, 1] for samples of mixtures: the rounding error of float32 at full scale."""
_BLOCK = 65536
"""Samples that are Python floats at a time; for an hour of speech they would take gigabytes."""


def mu_law_compress(amplitude: DoubleArray, mu: int) -> DoubleArray:
    """Compands amplitudes in [-1, 1] to [-1, 1] (ITU-T G.711, the continuous formula)."""
    companded: DoubleArray = np.sign(amplitude) * np.log1p(mu * np.abs(amplitude)) / np.log1p(mu)
    return companded


def mu_law_expand(companded: DoubleArray, mu: int) -> DoubleArray:
    """Inverse of `mu_law_compress`."""
    return np.sign(companded) / mu * ((1.0 + mu) ** np.abs(companded) - 1.0)


class DeEmphasis:
    """Inverse of pre-emphasis, x[n] = y[n] + a x[n-1]; keeps its state between chunks, so that chunking changes no bit.

    It starts from silence; a coefficient of 0 changes nothing.
    """

    def __init__(self, coefficient: float) -> None:
        self._coefficient = coefficient
        self._last = 0.0

    def __call__(self, emphasised: DoubleArray) -> DoubleArray:
        if not self._coefficient or not emphasised.size:
            return emphasised
        waveform = self._filtered(emphasised)
        self._last = float(waveform[-1])
        return waveform

    def _filtered(self, emphasised: DoubleArray) -> DoubleArray:
        coefficient, last = self._coefficient, self._last
        with suppress(NativeLibraryError):
            return native_library().de_emphasis(emphasised, coefficient, last)
        # A recursion in Python floats, a hundred times as slow: numpy has none.
        waveform = np.empty(emphasised.size)
        for start in range(0, emphasised.size, _BLOCK):
            block = emphasised[start : start + _BLOCK].tolist()
            chain = accumulate(block, lambda before, y: y + coefficient * before, initial=last)
            waveform[start : start + len(block)] = np.fromiter(chain, np.float64, len(block) + 1)[1:]
            last = float(waveform[start + len(block) - 1])
        return waveform


class SampleCoding:
    """Samples (labels or mixture values) to waveform and back, for one model."""

    def __init__(self, model: ModelConfig, audio: AudioConfig) -> None:
        self._model = model
        self._preemphasis = audio.waveform_preemphasis
        self._classes = model.outputs if model.output == "categorical" else 0
        self._librosa = model.label_scale == "librosa"
        self._amplitudes = self._expand(np.arange(self._classes))

    def amplitudes(self, samples: NDArray[Any]) -> DoubleArray:
        """Converts emitted samples to amplitudes, element by element; de-emphasis is not applied."""
        return self._amplitudes[samples] if self._classes else samples.astype(np.float64)

    def de_emphasis(self) -> DeEmphasis:
        """Returns a new de-emphasis filter, for the amplitudes of one utterance in order."""
        return DeEmphasis(self._preemphasis)

    def waveform(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Converts all samples of an utterance to its waveform, float32 [samples]."""
        return self.de_emphasis()(self.amplitudes(samples)).astype(np.float32)

    def samples(self, waveform: ArrayLike) -> NDArray[Any]:
        """Encodes a waveform as samples: int32 labels, or float32 for mixtures.

        Rounding is to the nearest companded value; amplitudes beyond [-1, 1] are clipped.
        """
        amplitudes = np.asarray(waveform, dtype=np.float64)
        if self._preemphasis:
            amplitudes = pre_emphasis(amplitudes, self._preemphasis)
        amplitudes = np.clip(amplitudes, -1.0, 1.0)
        if not self._classes:
            return amplitudes.astype(np.float32)
        companded = mu_law_compress(amplitudes, self._classes - 1) if self._model.mu_law else amplitudes
        half = self._classes / 2 if self._librosa else (self._classes - 1) / 2
        labels = np.floor((companded + 1.0) * half + 0.5)
        return np.clip(labels, 0, self._classes - 1).astype(np.int32)

    def feedback(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Converts emitted samples to the decoder's next inputs: int32 labels (univoc), else float32 in [-1, 1]."""
        if self._model.label_feedback:
            return samples.astype(np.int32)
        values = samples.astype(np.float32)
        if not self._classes:
            return values
        if self._model.amplitude_feedback:
            amplitudes: NDArray[np.float32] = self._amplitudes[samples].astype(np.float32)
            return amplitudes
        # In float32 and in this order, like the sampler: the product with a table would differ in the last bit.
        fed: NDArray[np.float32] = np.float32(2) * values / np.float32(self._classes - 1) - np.float32(1)
        return fed

    def check(self, samples: ArrayLike) -> NDArray[Any]:
        """Checks samples from a caller and returns them as int32 labels or float32 values [n].

        Raises:
            VocoderError: not one-dimensional, or not labels or values of this model.
        """
        values = np.asarray(samples)
        expected = f"integers from 0 to {self._classes - 1}" if self._classes else "numbers from -1 to 1"
        if values.ndim != 1 or (values.size and values.dtype.kind not in ("iu" if self._classes else "iuf")):
            raise VocoderError(f"samples: found {values.dtype} {values.shape}, expected {expected}, [samples]")
        if not self._classes:
            if not np.isfinite(values).all():
                raise VocoderError(f"samples: found NaN or infinite values, expected {expected}")
            if values.size and np.abs(values).max() > 1 + _ROUNDING:
                raise VocoderError(f"samples: found values from {values.min()} to {values.max()}, expected {expected}")
            return values.astype(np.float32)
        if values.size and not (values.min() >= 0 and values.max() < self._classes):
            raise VocoderError(f"samples: found labels from {values.min()} to {values.max()}, expected {expected}")
        return values.astype(np.int32)

    def _expand(self, labels: NDArray[np.int64]) -> DoubleArray:
        if not labels.size:
            return np.zeros(0)
        classes = self._classes
        companded = (labels - classes / 2) * 2 / classes if self._librosa else 2 * labels / (classes - 1) - 1
        return mu_law_expand(companded, classes - 1) if self._model.mu_law else companded
