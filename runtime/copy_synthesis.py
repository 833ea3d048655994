"""Copy synthesis: converts recordings to a model's sample rate and level, and to its mel spectrogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import resample

SILENT_PEAK = 1e-4
"""-80 dB, three steps of 16 bits: a recording below this peak is silence, and is not scaled to the level of speech."""


def adapt_recording(waveform: ArrayLike, sample_rate: float, audio: AudioConfig) -> FloatArray:
    """Resamples a recording to a model's rate and, if the model has one (``audio.peak``), scales it to that peak.

    Args:
        waveform: float [samples], mono, in [-1, 1].
        sample_rate: Hz of the waveform, a whole number.
        audio: the model's audio settings.

    Returns:
        float32 [samples].

    Raises:
        VocoderError: not a mono waveform of finite numbers, or not a valid sample rate.
    """
    recording = resample(waveform, sample_rate, audio.sample_rate)
    peak = float(np.abs(recording).max())
    if audio.peak is not None and peak >= SILENT_PEAK:
        recording = recording * np.float32(audio.peak / peak)
    return recording


def mel_of_recording(waveform: ArrayLike, sample_rate: float, audio: AudioConfig) -> FloatArray:
    """Computes a recording's mel, float32 [n_mels, frames]; arguments and errors as for `adapt_recording`."""
    try:
        return mel_spectrogram(adapt_recording(waveform, sample_rate, audio), audio)
    except ValueError as error:
        raise VocoderError(str(error)) from None
