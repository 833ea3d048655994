"""Whether a vocoder reads the mels of an acoustic model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import read_audio
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.speech.audio_match import conversion

AUDIO = read_audio(SMALL_VOICE)
CHANGES: dict[str, Any] = {
    "sample_rate": 22050,
    "hop_length": 256,
    "win_length": 1024,
    "n_fft": 1024,
    "n_mels": 64,
    "mel_norm": "sum",
    "stft": "lws",
    "fmin": 0.0,
    "fmax": 7000.0,
    "pad_mode": "reflect",
    "preemphasis": 0.5,
    "log": "natural",
    "floor": 1e-4,
    "reference_db": 16.0,
    "min_level_db": -100.0,
}


def test_mels_of_equal_settings_are_left_as_they_are() -> None:
    mel = np.zeros((80, 3), np.float32)
    waveform_only = dataclasses.replace(AUDIO, waveform_preemphasis=0.0, peak=None, delay=0)
    assert conversion(AUDIO, waveform_only)(mel) is mel
    assert conversion(dataclasses.replace(AUDIO, fmax=8000.0), AUDIO)(mel) is mel
    assert conversion(AUDIO, dataclasses.replace(AUDIO, fmax=8000.0))(mel) is mel


def test_mels_of_another_range_are_converted() -> None:
    other = dataclasses.replace(AUDIO, mel_range=(-4.0, 4.0))
    waveform = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    converted = conversion(AUDIO, other)(mel_spectrogram(waveform, AUDIO))
    np.testing.assert_allclose(converted, mel_spectrogram(waveform, other), atol=1e-5)
    assert converted.dtype == np.float32


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_that_cannot_be_converted_is_named(name: str) -> None:
    other = dataclasses.replace(AUDIO, **{name: CHANGES[name]})
    with pytest.raises(VocoderError, match=f"mels are not those of the vocoder: {name} .* and {CHANGES[name]!r}"):
        conversion(AUDIO, other)


def test_all_differences_are_named() -> None:
    with pytest.raises(VocoderError, match=r"fmin 50\.0 and 0\.0, floor 1e-05 and 0\.0001"):
        conversion(AUDIO, dataclasses.replace(AUDIO, fmin=0.0, floor=1e-4))
