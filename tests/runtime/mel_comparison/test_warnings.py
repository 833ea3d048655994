"""Warnings about mels that a model accepts and that probably have another convention."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_conventions import COQUI, PUBLISHED, RTVC, SHIPPED
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import resample
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings
from wavernn_trt.runtime.vocoder import Vocoder

Array = NDArray[Any]
SAMPLES = Path(__file__).resolve().parents[3] / "runtime" / "voices" / "samples" / "lj-speech"
MODELS = {**PUBLISHED, "shipped": SHIPPED, "rtvc": RTVC}


@pytest.fixture(scope="module")
def speech() -> tuple[Array, int]:
    return soundfile.read(SAMPLES / "LJ001-0029.wav", dtype="float32")


def features(waveform: Array, rate: int, audio: AudioConfig, gain: float = 1.0, samples: int | None = None) -> Array:
    signal = resample(waveform, rate, audio.sample_rate) * np.float32(gain)
    return mel_spectrogram(signal[:samples], audio)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_s_own_features_give_no_warning(model: str, speech: tuple[Array, int]) -> None:
    audio = MODELS[model]
    for gain in (1.4, 1.0, 0.1, 0.001, 0.0):
        for samples in (None, 1500, 80 * audio.hop_length - 1):
            mel = features(*speech, audio, gain, samples)
            check_mel(mel, audio)
            assert mel_warnings(mel, audio) == []
            assert mel_warnings(mel.astype(np.float16), audio) == []


def distinguishable(other: str, model: str) -> bool:
    """Whether ranges differ; a quiet recording's mel in [-1, 0] also fits rtvc's [-1, 1]."""
    given, taken = MODELS[other], MODELS[model]
    same = (given.log, given.mel_range) == (taken.log, taken.mel_range)
    return not same and not (model == "rtvc" and given.mel_range == (-1.0, 0.0))


@pytest.mark.parametrize(
    ("other", "model"), [(other, model) for other in MODELS for model in MODELS if distinguishable(other, model)]
)
def test_a_mel_in_another_convention_is_refused_or_gives_a_warning(
    other: str, model: str, speech: tuple[Array, int]
) -> None:
    given, taken = MODELS[other], MODELS[model]
    mel = features(*speech, given)
    try:
        check_mel(mel, taken)
    except VocoderError:
        return
    assert mel_warnings(mel, taken)


@pytest.mark.parametrize(
    ("change", "model", "expected"),
    [
        (lambda mel: (mel + 4) / 8, "coqui", "floor of levels mapped to [0, 1]"),
        (lambda mel: (mel + 4) / 2, "coqui", "floor of levels mapped to [0, 4]"),
        (lambda mel: np.maximum((mel + 4) / 8, 0.1), "coqui", "dB for this model, where speech has more than 30 dB"),
        (lambda mel: 0.3 + 0.4 * (mel + 4), "coqui", "no value below 0.3"),
        (lambda mel: mel - 3, "coqui", "values are below the model's range"),
        (lambda mel: mel[None], "coqui", "batch axis of one"),
    ],
)
def test_the_warning_names_the_cause(
    change: Callable[[Array], Array], model: str, expected: str, speech: tuple[Array, int]
) -> None:
    audio = MODELS[model]
    mel = change(features(*speech, audio)).astype(np.float32)
    check_mel(mel, audio)
    (warning,) = mel_warnings(mel, audio)
    assert expected in warning


def test_the_floor_of_a_natural_logarithm_is_recognised_in_a_model_of_decibels(speech: tuple[Array, int]) -> None:
    audio = dataclasses.replace(COQUI, reference_db=0.0, mel_range=(-100.0, 0.0))
    mel = features(*speech, dataclasses.replace(COQUI, log="natural", fmin=20.0))
    mel[:, :20] = np.log(np.float32(1e-5))
    (warning,) = mel_warnings(mel, audio)
    assert "-11.513, the floor of the natural logarithm" in warning
    assert "--mel-from tacotron2" in warning


def test_a_transposed_square_mel_gives_a_warning(speech: tuple[Array, int]) -> None:
    mel = features(*speech, MODELS["turian"])[:, 60:140]
    assert mel_warnings(mel, MODELS["turian"]) == []
    (warning,) = mel_warnings(mel.T, MODELS["turian"])
    assert "looks transposed" in warning


def test_mels_that_are_refused_elsewhere_give_no_warning() -> None:
    assert mel_warnings(np.zeros((5, 80)), COQUI) == []
    assert mel_warnings(np.full((80, 5), np.nan), COQUI) == []


def test_the_vocoder_logs_each_warning_once(tiny_vocoder: Vocoder, caplog: pytest.LogCaptureFixture) -> None:
    audio = tiny_vocoder.config.audio
    mel = np.random.default_rng(0).uniform(-0.3, -0.1, (audio.n_mels, 30)).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        tiny_vocoder.vocode_batch([mel])
    warnings = [record.getMessage() for record in caplog.records if "where speech has more" in record.getMessage()]
    assert len(warnings) == 1
