"""Log-mel spectrograms in numpy, as computed by the training code of each family.

The conventions are librosa's (centred frames, periodic Hann window, Slaney mel scale with area normalisation), and the
tests compare with it. It is not a dependency, because it requires numba, LLVM, SciPy and scikit-learn.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray, FloatArray
from wavernn_trt.export.config import AudioConfig

FilterNorm = Literal["slaney", "sum", "none"]
"""Scaling of mel filters: ``slaney`` and ``sum`` as in `AudioConfig.mel_norm`; ``none``: each filter has height one."""
_FRAMES_AT_ONCE = 512


def mel_spectrogram(waveform: FloatArray, audio: AudioConfig) -> FloatArray:
    """Computes the mel spectrogram of a waveform, in the model's range.

    Args:
        waveform: float [samples], mono, in [-1, 1], at ``audio.sample_rate``.
        audio: the model's audio settings.

    Returns:
        float32 [n_mels, frames]. Frame t is centred on sample t * hop_length, with 1 + samples // hop_length frames.
        With ``stft`` lws, frames lie n_fft / 2 - hop_length earlier, with ceil(samples / hop_length) +
        n_fft / hop_length - 1 frames.

    Raises:
        ValueError: not one-dimensional, empty, not finite, or too short for reflect padding.
    """
    signal = np.asarray(waveform, dtype=np.float64)
    if signal.ndim != 1 or signal.size == 0:
        raise ValueError(f"waveform of shape {np.shape(waveform)}: expected [samples], mono and not empty")
    if not np.isfinite(signal).all():
        raise ValueError("waveform: found NaN or infinite samples, expected finite ones")
    if audio.preemphasis:
        signal = pre_emphasis(signal, audio.preemphasis)
    return magnitude_to_mel(mel_magnitude(signal, audio), audio)


def magnitude_to_mel(magnitude: DoubleArray, audio: AudioConfig) -> FloatArray:
    """Maps mel-filtered magnitudes to the model's levels; the inverse of `mel_to_magnitude`.

    Args:
        magnitude: [n_mels, frames], not negative.
        audio: the model's audio settings.

    Returns:
        float32 [n_mels, frames].
    """
    if audio.log == "natural":
        return np.log(np.maximum(magnitude, audio.floor)).astype(np.float32)
    decibels = 20.0 * np.log10(np.maximum(magnitude, audio.floor)) - audio.reference_db
    low, high = audio.mel_range
    scaled = low + (high - low) * (decibels - audio.min_level_db) / -audio.min_level_db
    return np.clip(scaled, low if audio.clip_low else None, high if audio.clip_high else None).astype(np.float32)


def lowest_level(audio: AudioConfig) -> float:
    """Returns the level of digital silence, in the model's range."""
    return float(magnitude_to_mel(np.zeros(1), audio)[0])


def mel_to_magnitude(mel: FloatArray, audio: AudioConfig) -> DoubleArray:
    """Maps a mel, float32 [n_mels, frames] in the model's range, to mel-filtered magnitudes of the same shape."""
    values = mel.astype(np.float64)
    if audio.log == "natural":
        return np.exp(values)
    low, high = audio.mel_range
    decibels = audio.min_level_db * (high - values) / (high - low) + audio.reference_db
    return np.asarray(10 ** (decibels / 20))


def pre_emphasis(signal: DoubleArray, coefficient: float) -> DoubleArray:
    """Computes y[n] = x[n] - coefficient x[n-1], with x[-1] = 0.

    librosa's ``preemphasis`` extrapolates the signal to the left instead; only the first sample differs.
    """
    return np.concatenate([signal[:1], signal[1:] - coefficient * signal[:-1]])


def mel_magnitude(signal: DoubleArray, audio: AudioConfig) -> DoubleArray:
    """Computes mel-filtered magnitudes |STFT|, float64 [n_mels, frames]."""
    if audio.stft == "lws":
        padded, window = _lws_frames(signal, audio)
    else:
        padded, window = _centred_frames(signal, audio)
    frames = np.lib.stride_tricks.sliding_window_view(padded, audio.n_fft)[:: audio.hop_length]
    bank = mel_filterbank(audio)
    # In blocks, because the spectra of an hour of speech take gigabytes.
    blocks = [
        bank @ np.abs(np.fft.rfft(frames[i : i + _FRAMES_AT_ONCE] * window, axis=1)).T
        for i in range(0, len(frames), _FRAMES_AT_ONCE)
    ]
    return np.concatenate(blocks, axis=1)


def _centred_frames(signal: DoubleArray, audio: AudioConfig) -> tuple[DoubleArray, DoubleArray]:
    """Pads a signal for centred frames; returns it and the window."""
    half = audio.n_fft // 2
    if audio.pad_mode == "reflect" and signal.size <= half:
        raise ValueError(f"{signal.size} samples are too short for a spectrogram: at least {half + 1} are needed")
    return np.pad(signal, half, mode=audio.pad_mode), hann_window(audio.win_length, audio.n_fft)


def _lws_frames(signal: DoubleArray, audio: AudioConfig) -> tuple[DoubleArray, DoubleArray]:
    """Pads a signal as the package lws does in its mode "speech", whose window has n_fft samples; returns both."""
    size, hop = audio.n_fft, audio.hop_length
    after = -signal.size % hop + size - hop
    return np.pad(signal, (size - hop, after)), lws_window(size, hop)


@lru_cache(maxsize=8)
def lws_window(n_fft: int, hop_length: int) -> DoubleArray:
    """Window of the package lws, [n_fft]: a half sine, scaled by the overlap of frames."""
    return np.asarray(np.sin(np.pi * (np.arange(n_fft) + 0.5) / n_fft) / np.sqrt(n_fft / hop_length / 2))


@lru_cache(maxsize=8)
def hann_window(win_length: int, n_fft: int) -> DoubleArray:
    """Periodic Hann window of ``win_length`` samples, padded with zeros on both sides to ``n_fft``."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    left = (n_fft - win_length) // 2
    return np.pad(hann, (left, n_fft - win_length - left))


@lru_cache(maxsize=8)
def mel_filterbank(audio: AudioConfig) -> DoubleArray:
    """Triangular filters on Slaney's mel scale, [n_mels, n_fft // 2 + 1]; see `AudioConfig.mel_norm`."""
    fmax = audio.fmax if audio.fmax is not None else audio.sample_rate / 2
    edges = slaney_edges(audio.fmin, fmax, audio.n_mels)
    return triangles(edges, np.fft.rfftfreq(audio.n_fft, 1 / audio.sample_rate), audio.mel_norm)


def triangles(edges: DoubleArray, frequencies: NDArray[np.floating], norm: FilterNorm) -> DoubleArray:
    """Triangular filters, [filters, bins].

    Args:
        edges: Hz [filters + 2]; filter i rises from edge i, peaks at edge i + 1 and falls to zero at edge i + 2.
        frequencies: Hz [bins], of the Fourier transform.
        norm: scaling of each filter.
    """
    ramps = edges[:, None] - frequencies[None]
    width = np.diff(edges)[:, None]
    bank = np.asarray(np.maximum(0, np.minimum(-ramps[:-2] / width[:-1], ramps[2:] / width[1:])))
    if norm == "slaney":
        bank *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    elif norm == "sum":
        bank /= np.maximum(bank.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return bank


# Slaney's Auditory Toolbox scale: linear up to 1 kHz (66.67 Hz per mel), logarithmic above (27 steps for a factor 6.4).
_LINEAR_HZ = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27


def slaney_edges(fmin: float, fmax: float, filters: int) -> DoubleArray:
    """Edges of filters in Hz, [filters + 2], equally spaced on Slaney's mel scale."""
    mels = np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), filters + 2)
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL)))


def _hz_to_mel(frequency: float) -> float:
    if frequency < _BREAK_HZ:
        return frequency / _LINEAR_HZ
    return float(_BREAK_MEL + np.log(frequency / _BREAK_HZ) / _LOG_STEP)
