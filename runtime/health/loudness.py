"""Selection of the frames of a mel in which the waveform cannot be constant, for every mel convention."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.features import mel_filterbank, mel_to_magnitude
from wavernn_trt.runtime.sample_coding import mu_law_expand

_STEPS = 16
"""Root mean square of a loud frame's waveform, in the finest quantisation steps of the model's samples."""
_QUIETEST = 10 ** (-50 / 20)
"""The same as an amplitude, for models without quantisation steps."""
_FRAMES_AT_A_TIME = 1024
"""Frames whose amplitudes are estimated together; each takes some kilobytes."""
_LOUDEST_BINS = 0.1
"""Share of a frame's bins, the loudest, that are not counted: a model trained on speech may turn hum or a tone into
silence."""


class Loudness:
    """Counts the samples of loud frames; frames can be appended."""

    def __init__(self, model: ModelConfig, audio: AudioConfig, mel: FloatArray | None = None) -> None:
        """Starts with a mel, float32 [n_mels, frames], or without frames."""
        self._audio = audio
        self._threshold = loud_amplitude(model, audio)
        self._before = np.zeros(1, np.int64)  # [frames + 1], samples of loud frames before each
        self._mel = mel  # read only when its loudness is needed, which is seldom

    def extend(self, mel: FloatArray) -> None:
        """Appends frames, float32 [n_mels, frames]."""
        loud = frame_amplitudes(mel, self._audio, broad=True) >= self._threshold
        self._before = np.concatenate([self._before, self._before[-1] + np.cumsum(loud * self._audio.hop_length)])

    def loud_samples(self, start: int, stop: int) -> int:
        """Number of samples from ``start`` to ``stop - 1`` in loud frames; missing frames count as silent."""
        return self._until(stop) - self._until(start)

    def _until(self, sample: int) -> int:
        frame, position = divmod(sample, self._audio.hop_length)
        while self._mel is not None and (known := len(self._before) - 1) < min(frame + 1, self._mel.shape[1]):
            self.extend(self._mel[:, known : known + _FRAMES_AT_A_TIME])
        if frame >= len(self._before) - 1:
            return int(self._before[-1])
        return int(self._before[frame]) + (position if self._before[frame + 1] > self._before[frame] else 0)


def frame_amplitudes(mel: FloatArray, audio: AudioConfig, *, broad: bool = False) -> NDArray[np.float64]:
    """Estimates the waveform's root mean square around each frame from the mel, [frames].

    Each bin is divided by its value for a flat spectrum of height one, pre-emphasis included; the mean square is the
    weighted sum of the squares (Parseval's theorem).

    Args:
        mel: float32 [n_mels, frames], in the model's range.
        audio: settings of the mel.
        broad: whether to leave out the loudest tenth of the bins.
    """
    flat, shares = _bins(audio)
    squares = shares[:, None] * (mel_to_magnitude(mel, audio) / flat[:, None]) ** 2
    if broad:
        kept = audio.n_mels - int(np.ceil(_LOUDEST_BINS * audio.n_mels))
        squares = np.partition(squares, kept - 1, axis=0)[:kept] if kept else squares[:0]
    return np.sqrt(squares.sum(axis=0))  # type: ignore[no-any-return]


def loud_amplitude(model: ModelConfig, audio: AudioConfig) -> float:
    """The root mean square above which a frame's waveform cannot be constant after quantisation."""
    step = 0.0
    if model.output == "categorical":
        step = 2.0 / (model.outputs - 1)
        if model.mu_law:  # the steps around zero are the finest, and the waveform crosses zero
            step = float(mu_law_expand(np.array([step]), model.outputs - 1)[0])
    # Pre-emphasis reduces the lowest frequencies by this factor.
    return max(_STEPS * step, _QUIETEST) / (1.0 - audio.waveform_preemphasis)


@lru_cache(maxsize=8)
def _bins(audio: AudioConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each mel bin's value for a flat spectrum of height one, and its share of the mean square; both [n_mels]."""
    bank = mel_filterbank(audio)
    frequencies = np.arange(bank.shape[1]) * (2 * math.pi / audio.n_fft)
    response = np.abs(1.0 - audio.preemphasis * np.exp(-1j * frequencies))
    # Neighbouring filters overlap by half: each represents half of the points that it covers.
    points = (bank > 0).sum(axis=1) / 2
    window = 3 / 8 * audio.win_length  # the sum of a Hann window's squares
    return np.maximum(bank @ response, 1e-12), 2 * points / (audio.n_fft * window)
