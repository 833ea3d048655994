"""Recordings as a model takes them: at its sample rate and level, and as its mel spectrogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import resample

SILENT_PEAK = 1e-4
"""-80 dB, three steps of 16 bits: a recording that never reaches it is silence, and is not made as loud as speech."""


def adapt_recording(waveform: ArrayLike, sample_rate: float, audio: AudioConfig) -> FloatArray:
    """A recording at a model's sample rate and, where the voice has one, its level.

    Args:
        waveform: float [samples], mono, in [-1, 1].
        sample_rate: its rate in Hz, a whole number.
        audio: the model's audio settings.

    Returns:
        float32 [samples].

    Raises:
        VocoderError: not a mono waveform of finite numbers, or no sample rate.
    """
    recording = resample(waveform, sample_rate, audio.sample_rate)
    peak = float(np.abs(recording).max())
    if audio.peak is not None and peak >= SILENT_PEAK:
        recording = recording * np.float32(audio.peak / peak)
    return recording


def mel_of_recording(waveform: ArrayLike, sample_rate: float, audio: AudioConfig) -> FloatArray:
    """The mel spectrogram of a recording, float32 [n_mels, frames]; arguments and errors as for `adapt_recording`."""
    try:
        return mel_spectrogram(adapt_recording(waveform, sample_rate, audio), audio)
    except ValueError as error:
        raise VocoderError(str(error)) from None
