"""How a mel spectrogram may have been computed, levels aside, and what a recording looks like when it is done so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.features import hann_window, hz_to_mel, lws_window, mel_to_hz, pre_emphasis, triangles
from wavernn_trt.runtime.files.audio import resample

FilterNorm = Literal["slaney", "sum", "none"]
"""``slaney`` and ``sum`` as in `AudioConfig.mel_norm`; ``none``: each filter has height one."""
FilterScale = Literal["slaney", "htk"]
"""The mel scale on which the filters' edges are equally spaced."""

_SMALLEST = 1e-10
"""Magnitude; below every convention's floor, so that a logarithm exists."""


@dataclass(frozen=True)
class Analysis:
    """Settings that turn a recording into mel magnitudes."""

    signal_rate: int
    """Hz that the recording is sampled at."""
    sample_rate: int
    """Hz that the mel filters were computed for; another than `signal_rate` is a mistake that is made."""
    hop_length: int
    """Samples."""
    win_length: int
    """Samples."""
    n_fft: int
    """Samples."""
    n_mels: int
    fmin: float
    """Hz."""
    fmax: float | None
    """Hz; ``None`` is half of `sample_rate`."""
    preemphasis: float
    norm: FilterNorm
    scale: FilterScale = "slaney"
    power: Literal[1, 2] = 1
    """What the filters are applied to: 1 magnitudes, 2 their squares."""
    stft: Literal["centred", "lws"] = "centred"
    """As in `AudioConfig.stft`; the window is meant, the place of the frames is found by aligning."""

    @property
    def top(self) -> float:
        """Hz, upper edge of the last filter."""
        return self.sample_rate / 2 if self.fmax is None else min(self.fmax, self.sample_rate / 2)

    @property
    def possible(self) -> bool:
        """Whether the sizes and frequencies go together."""
        return 0 <= self.fmin < self.top and 0 < self.win_length <= self.n_fft and self.hop_length > 0


def model_analysis(audio: AudioConfig) -> Analysis:
    """The analysis that a model was trained on."""
    fmax = None if audio.fmax is None or audio.fmax >= audio.sample_rate / 2 else audio.fmax
    return Analysis(
        audio.sample_rate, audio.sample_rate, audio.hop_length, audio.win_length, audio.n_fft, audio.n_mels,
        audio.fmin, fmax, audio.preemphasis, audio.mel_norm, stft=audio.stft,
    )  # fmt: skip


@lru_cache(maxsize=32)
def filterbank(analysis: Analysis) -> DoubleArray:
    """Mel filters [n_mels, n_fft // 2 + 1]; not to be written to."""
    if analysis.scale == "slaney":
        mels = np.linspace(hz_to_mel(analysis.fmin), hz_to_mel(analysis.top), analysis.n_mels + 2)
        edges = mel_to_hz(mels)
    else:
        # O'Shaughnessy's formula, as HTK, torchaudio and TensorFlow have it: 2595 log10(1 + f / 700).
        low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (analysis.fmin, analysis.top))
        edges = 700 * (10 ** (np.linspace(low, high, analysis.n_mels + 2) / 2595) - 1)
    bank = triangles(edges, np.fft.rfftfreq(analysis.n_fft, 1 / analysis.sample_rate))
    if analysis.norm == "slaney":
        bank *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    elif analysis.norm == "sum":
        bank /= np.maximum(bank.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return bank


class AnalysedRecording:
    """A recording that is analysed in many ways at chosen frames."""

    def __init__(self, waveform: NDArray[np.float32], sample_rate: int, peak: float | None = None) -> None:
        """Takes the recording.

        Args:
            waveform: float [samples], mono.
            sample_rate: Hz.
            peak: to which the recording is scaled once it is resampled; ``None`` leaves the level alone.
        """
        self._waveform = waveform
        self._peak = peak
        self.sample_rate = sample_rate
        self._signals: dict[tuple[int, float], DoubleArray] = {}
        self._spectra: dict[tuple[object, ...], DoubleArray] = {}

    def signal(self, rate: int, preemphasis: float = 0.0) -> DoubleArray:
        """The recording [samples] at a sample rate, pre-emphasised."""
        key = (rate, preemphasis)
        if key not in self._signals:
            if preemphasis:
                self._signals[key] = pre_emphasis(self.signal(rate), preemphasis)
            else:
                resampled = resample(self._waveform, self.sample_rate, rate).astype(np.float64)
                gain = 1.0 if self._peak is None else self._peak / np.abs(resampled).max()
                self._signals[key] = gain * resampled
        return self._signals[key]

    def inside(self, analysis: Analysis, frames: NDArray[np.intp], delay: float) -> NDArray[np.bool_]:
        """Which frames lie inside the recording with their whole window, so that padding plays no part.

        Args:
            analysis: gives the hop and the window.
            frames: numbers of frames.
            delay: samples at the signal's rate; frame t is centred on t * hop_length + delay.
        """
        centres = frames * analysis.hop_length + delay
        half, size = analysis.win_length / 2, self.signal(analysis.signal_rate).size
        return np.asarray((centres >= half) & (centres <= size - half))

    def decibels(self, analysis: Analysis, frames: NDArray[np.intp], delay: float) -> DoubleArray:
        """Levels [n_mels, frames] of the mel filters' outputs: 20 log10 of magnitudes, 10 log10 of powers."""
        spectra = self._magnitudes(analysis, frames, delay)
        if analysis.power == 2:
            return np.asarray(10 * np.log10(np.maximum(filterbank(analysis) @ spectra**2, _SMALLEST**2)))
        return np.asarray(20 * np.log10(np.maximum(filterbank(analysis) @ spectra, _SMALLEST)))

    def heard(self, analysis: Analysis) -> NDArray[np.bool_]:
        """Which filters [n_mels] lie where the recording has a spectrum: not empty, not above half its sample rate."""
        bank = filterbank(analysis)
        bins = np.fft.rfftfreq(analysis.n_fft, 1 / analysis.signal_rate)
        above = bank[:, bins > 0.97 * self.sample_rate / 2].sum(axis=1)
        total = bank.sum(axis=1)
        return np.asarray((total > 0) & (above <= 0.02 * total))

    def _magnitudes(self, analysis: Analysis, frames: NDArray[np.intp], delay: float) -> DoubleArray:
        """|STFT| [n_fft // 2 + 1, frames]; the last ones are kept, for filters are tried in great number."""
        key = (
            analysis.signal_rate, analysis.hop_length, analysis.win_length, analysis.n_fft, analysis.preemphasis,
            analysis.stft, round(delay), frames.tobytes(),
        )  # fmt: skip
        if key not in self._spectra:
            signal = self.signal(analysis.signal_rate, analysis.preemphasis)
            n_fft, win = analysis.n_fft, analysis.win_length
            padded = np.pad(signal, n_fft)
            starts = frames * analysis.hop_length + round(delay) + n_fft - n_fft // 2
            cut = padded[np.clip(starts[:, None] + np.arange(n_fft)[None], 0, padded.size - 1)]
            window = lws_window(n_fft, analysis.hop_length) if analysis.stft == "lws" else hann_window(win, n_fft)
            if len(self._spectra) >= 4:
                del self._spectra[next(iter(self._spectra))]
            self._spectra[key] = np.abs(np.fft.rfft(cut * window, axis=1)).T
        return self._spectra[key]
