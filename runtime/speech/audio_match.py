"""Comparison of the mels that an acoustic model computes with those that a vocoder reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError

_COMPARED = (
    *("sample_rate", "hop_length", "win_length", "n_fft", "n_mels", "mel_norm", "stft", "fmin", "fmax", "pad_mode"),
    *("preemphasis", "log", "floor", "reference_db", "min_level_db"),
)
"""Fields of the settings that have to be equal. A range is converted; the others concern the vocoder's waveform."""


def conversion(acoustic: AudioConfig, vocoder: AudioConfig) -> Callable[[FloatArray], FloatArray]:
    """Returns a function from an acoustic model's mels to a vocoder's.

    Raises:
        VocoderError: the settings differ in something that cannot be converted exactly; all differences are named.
    """
    different = [name for name in _COMPARED if getattr(acoustic, name) != getattr(vocoder, name)]
    if _highest(acoustic) == _highest(vocoder):
        different = [name for name in different if name != "fmax"]
    if different:
        found = ", ".join(f"{name} {getattr(acoustic, name)!r} and {getattr(vocoder, name)!r}" for name in different)
        raise VocoderError(f"the acoustic model's mels are not those of the vocoder: {found}")
    if acoustic.log == "natural" or acoustic.mel_range == vocoder.mel_range:
        return lambda mel: mel
    (low, high), (other_low, other_high) = acoustic.mel_range, vocoder.mel_range
    scale = (other_high - other_low) / (high - low)
    return lambda mel: ((mel - low) * scale + other_low).astype(np.float32)


def _highest(audio: AudioConfig) -> float:
    return audio.sample_rate / 2 if audio.fmax is None else audio.fmax
