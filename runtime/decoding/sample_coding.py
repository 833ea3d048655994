"""What a model's samples mean as amplitudes, and the way back.

`ModelConfig.label_scale` names the companded value of a label: ``symmetric`` in all projects but UniversalVocoding 0.2,
whose code decodes with librosa's scale. mu is C - 1 for C classes. Mixtures yield amplitudes as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.decoding import mu_law
from wavernn_trt.runtime.decoding.emphasis import DeEmphasis
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import pre_emphasis

_ROUNDING = 1e-6
"""How far beyond [-1, 1] a mixture's sample may lie: what arithmetic in float32 adds to full scale."""


class SampleCoding:
    """Samples (labels or mixture values) to waveform and back, for one model."""

    def __init__(self, model: ModelConfig, audio: AudioConfig) -> None:
        """Tabulates the labels' amplitudes."""
        self._model = model
        self._preemphasis = audio.waveform_preemphasis
        self._classes = model.outputs if model.output == "categorical" else 0
        self._librosa = model.label_scale == "librosa"
        self._amplitudes = self._expand(np.arange(self._classes))

    def amplitudes(self, samples: NDArray[Any]) -> NDArray[np.float64]:
        """Samples as emitted to amplitudes, before de-emphasis; each on its own."""
        return self._amplitudes[samples] if self._classes else samples.astype(np.float64)

    def de_emphasis(self) -> DeEmphasis:
        """A filter for one utterance's amplitudes, from its first on."""
        return DeEmphasis(self._preemphasis)

    def waveform(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """A whole utterance's samples to its waveform, float32 [samples]."""
        return self.de_emphasis()(self.amplitudes(samples)).astype(np.float32)

    def samples(self, waveform: ArrayLike) -> NDArray[Any]:
        """A waveform to the samples that decode to it most nearly: int32 labels, or float32 for mixtures.

        Rounding is to the nearest companded value; amplitudes beyond [-1, 1] are clipped.
        """
        amplitudes = np.asarray(waveform, dtype=np.float64)
        if self._preemphasis:
            amplitudes = pre_emphasis(amplitudes, self._preemphasis)
        amplitudes = np.clip(amplitudes, -1.0, 1.0)
        if not self._classes:
            return amplitudes.astype(np.float32)
        companded = mu_law.compress(amplitudes, self._classes - 1) if self._model.mu_law else amplitudes
        half = self._classes / 2 if self._librosa else (self._classes - 1) / 2
        labels = np.floor((companded + 1.0) * half + 0.5)
        return np.clip(labels, 0, self._classes - 1).astype(np.int32)

    def feedback(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Samples as emitted to what the next step is fed with: int32 labels (univoc), else float32 in [-1, 1]."""
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
        """Samples that a caller brought, as int32 labels or float32 values [n].

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

    def _expand(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        if not labels.size:
            return np.zeros(0)
        classes = self._classes
        companded = (labels - classes / 2) * 2 / classes if self._librosa else 2 * labels / (classes - 1) - 1
        return mu_law.expand(companded, classes - 1) if self._model.mu_law else companded
