"""Conventions of mels, and their conversion to a model's."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_magnitude, mel_spectrogram
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.mel_comparison.conventions import CONVENTIONS, convert, differences, find_convention, names

Array = NDArray[Any]
SAMPLES = Path(__file__).resolve().parents[3] / "runtime" / "voices" / "samples" / "lj-speech"
COQUI = AudioConfig(16000, 256, 1024, 1024, reference_db=20.0, mel_range=(-4.0, 4.0))
MODELS = {
    "coqui": COQUI,
    "fatchord": dataclasses.replace(COQUI, reference_db=0.0, mel_range=(0.0, 1.0)),
    "univoc": dataclasses.replace(COQUI, mel_norm="sum", min_level_db=-80.0, mel_range=(-1.0, 0.0), clip_high=False),
    "natural": dataclasses.replace(COQUI, log="natural", reference_db=0.0),
}


@pytest.fixture(scope="module")
def speech() -> Array:
    """Three seconds at 16 kHz."""
    return np.asarray(soundfile.read(SAMPLES / "LJ001-0029.wav", dtype="float32")[0])


def decibels(magnitude: Array, floor: float = 1e-5) -> Array:
    return np.asarray(20 * np.log10(np.maximum(magnitude, floor)))


WRITTEN = {
    "tacotron2": lambda mel: np.log(np.clip(mel, 1e-5, None)),
    "hifigan": lambda mel: np.log(np.clip(mel, 1e-5, None)),
    "bigvgan": lambda mel: np.log(np.clip(mel, 1e-5, None)),
    "vocos": lambda mel: np.log(np.clip(mel, 1e-7, None)),
    "coqui": lambda mel: np.clip(8 * (decibels(mel, 1e-8) - 20 + 100) / 100 - 4, -4, 4),
    "fatchord": lambda mel: np.clip((decibels(mel) + 100) / 100, 0, 1),
    "rtvc": lambda mel: np.clip(8 * (decibels(mel) - 20 + 100) / 100 - 4, -4, 4),
    "univoc": lambda mel: np.maximum(decibels(mel) - 20, -80) / 80,
    "r9y9": lambda mel: np.clip((decibels(mel) - 20 + 100) / 100, 0, 1),
    "espnet": lambda mel: np.log10(np.maximum(mel, 1e-10)),
}
"""Levels of mel magnitudes as each project's code computes them."""


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("convention", WRITTEN)
def test_levels_become_the_model_s_own(convention: str, model: str, speech: Array) -> None:
    audio = MODELS[model]
    magnitude = mel_magnitude(speech.astype(np.float64), audio)
    written = WRITTEN[convention](magnitude).astype(np.float32)
    converted = convert(written, convention, audio)
    check_mel(converted, audio)
    # What the convention clips, at either end, is lost.
    inside = (written > written.min()) & (written < written.max()) & (magnitude > 1e-5)
    expected = mel_spectrogram(speech, audio)
    span = 1.0 if audio.log == "natural" else audio.mel_range[1] - audio.mel_range[0]
    assert inside.mean() > 0.6
    assert np.abs(converted - expected)[inside].max() < 2e-5 * span


def test_every_convention_with_a_logarithm_of_magnitudes_is_tested() -> None:
    assert set(WRITTEN) == {one.name for one in CONVENTIONS if one.power == 1}


@pytest.mark.parametrize("model", ["coqui", "univoc", "natural"])
def test_mels_of_librosa_s_power_spectra_become_the_model_s_within_a_decibel(model: str, speech: Array) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa computes the mels that are converted")
    audio = MODELS[model]
    power = librosa.feature.melspectrogram(
        y=speech, sr=audio.sample_rate, n_fft=audio.n_fft, hop_length=audio.hop_length, win_length=audio.win_length,
        n_mels=audio.n_mels, fmin=audio.fmin, norm="slaney",
    )  # fmt: skip
    expected = mel_spectrogram(speech, dataclasses.replace(audio, mel_norm="slaney"))
    audio = dataclasses.replace(audio, mel_norm="slaney")
    decibel = math.log(10) / 20 if audio.log == "natural" else np.diff(audio.mel_range)[0] / -audio.min_level_db
    loud = expected > np.quantile(expected, 0.5)
    for name, mel in (("librosa-power", power), ("librosa-db", librosa.power_to_db(power, ref=1.0))):
        error = (convert(mel, name, audio) - expected)[loud] / decibel
        assert abs(error.mean()) < 0.2
        assert np.sqrt((error**2).mean()) < 1.2
        assert np.quantile(np.abs(error), 0.99) < 4.5


def test_aliases_name_the_same_convention() -> None:
    assert find_convention("nvidia") is find_convention("waveglow") is find_convention("tacotron2")
    assert find_convention("mozilla-tts").name == "coqui"
    assert find_convention("kan-bayashi").name == "espnet"
    assert len(set(names())) == len(names())


def test_the_error_of_an_unknown_name_lists_all_names() -> None:
    with pytest.raises(VocoderError, match=r"found 'tacotron', expected one of tacotron2, nvidia, .*librosa-db"):
        convert(np.zeros((80, 3)), "tacotron", COQUI)


@pytest.mark.parametrize(
    ("mel", "convention", "message"),
    [
        (np.full((80, 3), -1.0), "librosa-power", "expected none below 0: librosa-power has no logarithm"),
        (np.full((80, 3), 20.0), "tacotron2", "174 dB in the convention tacotron2"),
        (np.full((80, 3), 4.0), "fatchord", "300 dB in the convention fatchord"),
        (np.zeros((3, 80)), "coqui", "looks transposed"),
        (np.full((80, 3), np.inf), "coqui", "NaN or infinite"),
        (np.zeros((80, 3), np.int16), "coqui", "found int16"),
    ],
)
def test_values_outside_a_convention_are_refused(mel: Array, convention: str, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        convert(mel, convention, COQUI)


def test_differences_that_are_not_converted_are_named() -> None:
    assert differences("tacotron2", COQUI) == ["sample rate 22050 Hz, the model 16000 Hz"]
    model = dataclasses.replace(COQUI, hop_length=200, win_length=800, n_fft=2048, fmin=50.0, preemphasis=0.97)
    assert differences("vocos", model) == [
        "sample rate 24000 Hz, the model 16000 Hz",
        "hop length 256 samples, the model 200 samples",
        "window 1024 samples, the model 800 samples",
        "n_fft 1024 samples, the model 2048 samples",
        "mel filters htk, the model slaney",
        "fmin 0 Hz, the model 50 Hz",
        "fmax 12000 Hz, the model 8000 Hz",
        "pre-emphasis 0, the model 0.97",
    ]
    assert any("power spectrum" in text for text in differences("librosa-db", COQUI))
    assert any("half a hop later" in text for text in differences("hifigan", COQUI))


def test_a_model_of_the_convention_has_no_differences() -> None:
    fatchord = AudioConfig(22050, 275, 1100, 2048, fmin=40.0)
    assert differences("fatchord", fatchord) == []
    univoc = AudioConfig(16000, 200, 800, 2048, mel_norm="sum", fmin=50.0, preemphasis=0.97)
    assert differences("univoc", univoc) == []
