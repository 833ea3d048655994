"""Log-mel spectrograms as each family's training code computed them, in numpy.

librosa is the authority on every convention here (centred frames, periodic Hann window, Slaney mel scale with area
normalisation) and the tests compare against it. It is not a dependency because it brings numba, LLVM, SciPy and
scikit-learn, some hundred times the size of this file's needs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray, FloatArray
from wavernn_trt.export.config import AudioConfig

_FRAMES_AT_ONCE = 512


def mel_spectrogram(waveform: FloatArray, audio: AudioConfig) -> FloatArray:
    """The mel spectrogram of a waveform, in the range that the model takes.

    Args:
        waveform: float [samples], mono, in [-1, 1], at ``audio.sample_rate``.
        audio: the model's audio settings.

    Returns:
        float32 [n_mels, frames]. Frame t is centred on sample t * hop_length, and there are 1 + samples // hop_length;
        with ``stft`` lws, frames lie n_fft / 2 - hop_length earlier, and there are n_fft / hop_length - 1 more than
        hops begun.

    Raises:
        ValueError: not one-dimensional, empty, not finite, or too short for reflect padding.
    """
    signal = np.asarray(waveform, dtype=np.float64)
    if signal.ndim != 1 or signal.size == 0:
        raise ValueError(f"waveform of shape {np.shape(waveform)}: expected [samples], mono and not empty")
    if not np.isfinite(signal).all():
        raise ValueError("the waveform holds NaN or infinite samples")
    if audio.preemphasis:
        signal = pre_emphasis(signal, audio.preemphasis)
    return magnitude_to_mel(mel_magnitude(signal, audio), audio)


def magnitude_to_mel(magnitude: DoubleArray, audio: AudioConfig) -> FloatArray:
    """Maps mel-filtered magnitudes to the levels that the model takes; the inverse of `mel_to_magnitude`.

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
    """The level of digital silence, in the range that the model takes."""
    return float(magnitude_to_mel(np.zeros(1), audio)[0])


def mel_to_magnitude(mel: FloatArray, audio: AudioConfig) -> DoubleArray:
    """Mel-filtered magnitudes [n_mels, frames]: what `mel_spectrogram` took the logarithm of, as far as its range goes.

    Args:
        mel: float32 [n_mels, frames], in the model's range.
        audio: how it was made.
    """
    values = mel.astype(np.float64)
    if audio.log == "natural":
        return np.exp(values)
    low, high = audio.mel_range
    decibels = audio.min_level_db * (high - values) / (high - low) + audio.reference_db
    return np.asarray(10 ** (decibels / 20))


def pre_emphasis(signal: DoubleArray, coefficient: float) -> DoubleArray:
    """y[n] = x[n] - coefficient x[n-1], with x[-1] = 0.

    librosa's ``preemphasis`` continues the signal linearly to the left instead; they differ in the first sample only.
    """
    return np.concatenate([signal[:1], signal[1:] - coefficient * signal[:-1]])


def mel_magnitude(signal: DoubleArray, audio: AudioConfig) -> DoubleArray:
    """Mel-filtered magnitudes |STFT|, float64 [n_mels, frames]."""
    if audio.stft == "lws":
        padded, window = _lws_frames(signal, audio)
    else:
        padded, window = _centred_frames(signal, audio)
    frames = np.lib.stride_tricks.sliding_window_view(padded, audio.n_fft)[:: audio.hop_length]
    bank = mel_filterbank(audio)
    # In blocks, so that an hour of speech does not become gigabytes of spectra.
    blocks = [
        bank @ np.abs(np.fft.rfft(frames[i : i + _FRAMES_AT_ONCE] * window, axis=1)).T
        for i in range(0, len(frames), _FRAMES_AT_ONCE)
    ]
    return np.concatenate(blocks, axis=1)


def _centred_frames(signal: DoubleArray, audio: AudioConfig) -> tuple[DoubleArray, DoubleArray]:
    """The signal padded so that its frames are centred, and the window."""
    half = audio.n_fft // 2
    if audio.pad_mode == "reflect" and signal.size <= half:
        raise ValueError(f"{signal.size} samples are too short for a spectrogram: at least {half + 1} are needed")
    return np.pad(signal, half, mode=audio.pad_mode), hann_window(audio.win_length, audio.n_fft)


def _lws_frames(signal: DoubleArray, audio: AudioConfig) -> tuple[DoubleArray, DoubleArray]:
    """The same as the package lws does in its mode "speech", which takes n_fft for the window."""
    size, hop = audio.n_fft, audio.hop_length
    behind = -signal.size % hop + size - hop
    return np.pad(signal, (size - hop, behind)), lws_window(size, hop)


@lru_cache(maxsize=8)
def lws_window(n_fft: int, hop_length: int) -> DoubleArray:
    """The window of the package lws, [n_fft]: a half sine, scaled by the overlap of frames."""
    return np.asarray(np.sin(np.pi * (np.arange(n_fft) + 0.5) / n_fft) / np.sqrt(n_fft / hop_length / 2))


@lru_cache(maxsize=8)
def hann_window(win_length: int, n_fft: int) -> DoubleArray:
    """A periodic Hann window of ``win_length`` samples in the middle of ``n_fft``, zeros around it."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    left = (n_fft - win_length) // 2
    return np.pad(hann, (left, n_fft - win_length - left))


@lru_cache(maxsize=8)
def mel_filterbank(audio: AudioConfig) -> DoubleArray:
    """Triangular filters on Slaney's mel scale, [n_mels, n_fft // 2 + 1]; see `AudioConfig.mel_norm`."""
    fmax = audio.fmax if audio.fmax is not None else audio.sample_rate / 2
    edges = mel_to_hz(np.linspace(hz_to_mel(audio.fmin), hz_to_mel(fmax), audio.n_mels + 2))
    bank = triangles(edges, np.fft.rfftfreq(audio.n_fft, 1 / audio.sample_rate))
    if audio.mel_norm == "sum":
        bank /= np.maximum(bank.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    else:
        bank *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return bank


def triangles(edges: DoubleArray, frequencies: NDArray[np.floating]) -> DoubleArray:
    """Triangular filters of height one.

    Args:
        edges: Hz [filters + 2]; filter i rises from edge i, is one at edge i + 1 and falls to zero at edge i + 2.
        frequencies: Hz [bins], of the Fourier transform.

    Returns:
        [filters, bins].
    """
    ramps = edges[:, None] - frequencies[None]
    width = np.diff(edges)[:, None]
    return np.asarray(np.maximum(0, np.minimum(-ramps[:-2] / width[:-1], ramps[2:] / width[1:])))


# Slaney's Auditory Toolbox scale: linear up to 1 kHz (66.67 Hz a mel), logarithmic above (27 steps for a factor 6.4).
_LINEAR_HZ = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(frequency: float) -> float:
    """Hz to Slaney's mel scale."""
    if frequency < _BREAK_HZ:
        return frequency / _LINEAR_HZ
    return float(_BREAK_MEL + np.log(frequency / _BREAK_HZ) / _LOG_STEP)


def mel_to_hz(mels: DoubleArray) -> DoubleArray:
    """Slaney's mel scale to Hz."""
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL)))
