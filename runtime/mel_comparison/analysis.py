"""Settings of a mel analysis, apart from levels, and the mel of a recording under such settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.features import FilterNorm, hann_window, lws_window, pre_emphasis, slaney_edges, triangles
from wavernn_trt.runtime.files.audio import resample

FilterScale = Literal["slaney", "htk"]
"""Mel scale on which the filters' edges are equally spaced."""

_MIN_MAGNITUDE = 1e-10
"""Floor before the logarithm, below the floor of every convention."""


@dataclass(frozen=True)
class Analysis:
    """Settings of the conversion from a recording to mel magnitudes."""

    signal_rate: int
    """Sample rate of the recording in Hz."""
    sample_rate: int
    """Sample rate in Hz for which the mel filters were computed; differs from `signal_rate` by mistake only."""
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
    """Input of the filters: 1 for magnitudes, 2 for their squares."""
    stft: Literal["centred", "lws"] = "centred"
    """As in `AudioConfig.stft`, but for the window only; the positions of frames come from the alignment."""

    @property
    def top(self) -> float:
        """Upper edge of the last filter in Hz."""
        return self.sample_rate / 2 if self.fmax is None else min(self.fmax, self.sample_rate / 2)

    @property
    def possible(self) -> bool:
        """Whether the sizes and frequencies are consistent."""
        return 0 <= self.fmin < self.top and 0 < self.win_length <= self.n_fft and self.hop_length > 0


def model_analysis(audio: AudioConfig) -> Analysis:
    """Returns the analysis that a model was trained on."""
    fmax = None if audio.fmax is None or audio.fmax >= audio.sample_rate / 2 else audio.fmax
    return Analysis(
        audio.sample_rate, audio.sample_rate, audio.hop_length, audio.win_length, audio.n_fft, audio.n_mels,
        audio.fmin, fmax, audio.preemphasis, audio.mel_norm, stft=audio.stft,
    )  # fmt: skip


@lru_cache(maxsize=32)
def filterbank(analysis: Analysis) -> DoubleArray:
    """Mel filters [n_mels, n_fft // 2 + 1]; read-only, since they are cached."""
    if analysis.scale == "slaney":
        edges = slaney_edges(analysis.fmin, analysis.top, analysis.n_mels)
    else:
        # O'Shaughnessy's formula, used by HTK, torchaudio and TensorFlow: 2595 log10(1 + f / 700).
        low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (analysis.fmin, analysis.top))
        edges = 700 * (10 ** (np.linspace(low, high, analysis.n_mels + 2) / 2595) - 1)
    return triangles(edges, np.fft.rfftfreq(analysis.n_fft, 1 / analysis.sample_rate), analysis.norm)


class AnalysedRecording:
    """Recording that is analysed with many settings at chosen frames; caches signals and spectra."""

    def __init__(self, waveform: NDArray[np.float32], sample_rate: int, peak: float | None = None) -> None:
        """Stores the recording.

        Args:
            waveform: float [samples], mono.
            sample_rate: Hz.
            peak: peak to which the recording is scaled after resampling; ``None`` keeps the level.
        """
        self._waveform = waveform
        self._peak = peak
        self.sample_rate = sample_rate
        self._signals: dict[tuple[int, float], DoubleArray] = {}
        self._spectra: dict[tuple[object, ...], DoubleArray] = {}

    def signal(self, rate: int, preemphasis: float = 0.0) -> DoubleArray:
        """Returns the recording [samples] at a sample rate, pre-emphasised."""
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
        """Returns which frames have their whole window inside the recording, so that they contain no padding.

        Args:
            analysis: sets the hop and the window.
            frames: indices of frames.
            delay: samples at the signal's rate; frame t is centred at t * hop_length + delay.
        """
        centres = frames * analysis.hop_length + delay
        half, size = analysis.win_length / 2, self.signal(analysis.signal_rate).size
        return np.asarray((centres >= half) & (centres <= size - half))

    def decibels(self, analysis: Analysis, frames: NDArray[np.intp], delay: float) -> DoubleArray:
        """Computes the levels of the mel filters, [n_mels, frames]: 20 log10 of magnitudes or 10 log10 of powers."""
        spectra = self._magnitudes(analysis, frames, delay)
        if analysis.power == 2:
            return np.asarray(10 * np.log10(np.maximum(filterbank(analysis) @ spectra**2, _MIN_MAGNITUDE**2)))
        return np.asarray(20 * np.log10(np.maximum(filterbank(analysis) @ spectra, _MIN_MAGNITUDE)))

    def valid_filters(self, analysis: Analysis) -> NDArray[np.bool_]:
        """Returns which filters [n_mels] are not empty and lie below half the recording's sample rate."""
        bank = filterbank(analysis)
        bins = np.fft.rfftfreq(analysis.n_fft, 1 / analysis.signal_rate)
        above = bank[:, bins > 0.97 * self.sample_rate / 2].sum(axis=1)
        total = bank.sum(axis=1)
        return np.asarray((total > 0) & (above <= 0.02 * total))

    def _magnitudes(self, analysis: Analysis, frames: NDArray[np.intp], delay: float) -> DoubleArray:
        """Returns |STFT|, [n_fft // 2 + 1, frames]; the last four are cached, since many filters are tried on each."""
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
