"""Checks of mel spectrograms given by callers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import lowest_level

_LOUDEST_NATURAL = 6.0
"""ln of the largest mel magnitude of full-scale audio, rounded up."""


def check_mel(mel: ArrayLike, audio: AudioConfig, sample_rate: int | None = None) -> FloatArray:
    """Checks a mel spectrogram and returns it as float32 [n_mels, frames].

    Args:
        mel: numpy [n_mels, frames], or [1, n_mels, frames] (a batch of one).
        audio: the model's audio settings.
        sample_rate: Hz of the audio that the mel was made for, if known.

    Raises:
        VocoderError: not floating-point numbers of that shape, empty, NaN or infinite, far outside the model's range,
            or made for another sample rate.
    """
    values = checked_array(mel, audio)
    if sample_rate is not None and sample_rate != audio.sample_rate:
        raise VocoderError(
            f"mel: found one made for {sample_rate} Hz, expected {audio.sample_rate} Hz; compute it from audio "
            f"resampled to {audio.sample_rate} Hz with hop length {audio.hop_length} (Vocoder.mel does)"
        )
    _check_range(values, audio)
    return np.ascontiguousarray(values, dtype=np.float32)


def checked_array(mel: ArrayLike, audio: AudioConfig) -> NDArray[np.floating]:
    """Checks shape, type and finiteness as `check_mel` does, but not the range; returns [n_mels, frames].

    Raises:
        VocoderError: not floating-point numbers of that shape, empty, NaN or infinite.
    """
    expected = f"[{audio.n_mels}, frames]"
    try:
        values = np.asarray(mel)
    except ValueError:
        raise VocoderError(f"mel: found rows of different lengths, expected {expected}") from None
    if values.dtype.kind != "f":
        raise VocoderError(f"mel: found {values.dtype}, expected floating-point numbers {expected}")
    if values.ndim == 3 and values.shape[:2] == (1, audio.n_mels):
        values = values[0]
    if values.ndim != 2 or values.shape[0] != audio.n_mels:
        raise VocoderError(f"mel: found shape {values.shape}, expected {expected}{_shape_hint(values, audio)}")
    if values.shape[1] == 0:
        raise VocoderError(f"mel: found no frames, expected {expected} with at least one frame")
    if not np.isfinite(values).all():
        raise VocoderError("mel: found NaN or infinite values, expected finite numbers")
    return values


def _check_range(mel: NDArray[np.floating], audio: AudioConfig) -> None:
    low = lowest_level(audio)
    high = _LOUDEST_NATURAL if audio.log == "natural" else audio.mel_range[1]
    # Half the span on either side: acoustic models exceed the range by a few per cent of the span, features that are
    # not clipped by an eighth, mels of another convention (natural log, decibels, [0, 1] for [-1, 0]) by over half.
    tolerance = (high - low) / 2
    lowest, highest = float(mel.min()), float(mel.max())
    if lowest >= low - tolerance and highest <= high + tolerance:
        return
    if audio.log == "natural":
        recipe = "the natural logarithm of mel magnitudes"
    else:
        decibels = f"20 log10(magnitude) - {audio.reference_db:g}"
        recipe = f"{decibels} dB, with {audio.min_level_db:g} dB mapped to {low:g} and 0 dB to {high:g}"
    raise VocoderError(
        f"mel: found values from {lowest:.4g} to {highest:.4g}, expected about {low:.4g} to {high:.4g}: this model "
        f"takes {recipe}; convert the mel (vocode --mel-from, mel_comparison.conventions.convert), or "
        "take it from audio with Vocoder.mel"
    )


def _shape_hint(mel: NDArray[np.generic], audio: AudioConfig) -> str:
    if mel.ndim == 2 and mel.shape[1] == audio.n_mels:
        return "; it looks transposed: pass mel.T"
    if mel.ndim == 3 and mel.shape[0] == 1 and mel.shape[2] == audio.n_mels:
        return "; it looks like the transposed mel of a batch of one: pass mel[0].T"
    if mel.ndim == 3 and audio.n_mels in mel.shape[1:]:
        return "; pass the mels of a batch one by one, or as a list to vocode_batch"
    return ""
