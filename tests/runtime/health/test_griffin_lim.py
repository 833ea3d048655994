"""Griffin-Lim reproduces a mel in every convention, and needs only librosa."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

pytest.importorskip("librosa", reason="Griffin-Lim is librosa's")

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.model_directory import read_audio
from wavernn_trt.export.settings.presets import PRESETS
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_filterbank, mel_spectrogram
from wavernn_trt.runtime.health.griffin_lim import GriffinLim, audible_magnitude, linear_magnitude
from wavernn_trt.runtime.sample_coding import DeEmphasis
from wavernn_trt.runtime.vocoder import shipped_voice

VOICE = read_audio(shipped_voice())
CONVENTIONS = {
    name: AudioConfig(**PRESETS[name].audio) for name in ("univoc-0.2", "fatchord", "coqui", "turian", "rtvc")
}
CONVENTIONS["natural"] = dataclasses.replace(CONVENTIONS["coqui"], log="natural")
CONVENTIONS["shipped"] = VOICE


def vowel(audio: AudioConfig, seconds: float = 1.0) -> np.ndarray:
    """A vowel with rising pitch, and noise."""
    times = np.arange(round(seconds * audio.sample_rate)) / audio.sample_rate
    phase = 2 * np.pi * (120 * times + 20 * times**2)
    voice = sum(np.sin(k * phase) / k for k in range(1, 25))
    breath = np.random.default_rng(0).standard_normal(len(times))
    return (0.2 * voice + 0.01 * breath).astype(np.float32) * np.minimum(1, 8 * times).astype(np.float32)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_mel_of_the_waveform_is_the_given_mel(name: str) -> None:
    audio = CONVENTIONS[name]
    mel = mel_spectrogram(vowel(audio), audio)
    waveform = GriffinLim(audio).vocode(mel)
    assert waveform.dtype == np.float32
    assert waveform.shape == (mel.shape[1] * audio.hop_length,)
    again = mel_spectrogram(waveform[audio.delay :], audio)[:, : mel.shape[1]]
    assert correlation(mel[:, : again.shape[1]], again) > 0.95
    assert 0.5 < np.abs(waveform).max() / np.abs(vowel(audio)).max() < 2  # as loud


@pytest.mark.parametrize("name", CONVENTIONS)
def test_magnitudes_are_those_before_the_logarithm(name: str) -> None:
    audio = CONVENTIONS[name]
    mel = mel_spectrogram(vowel(audio), audio)
    magnitude = audible_magnitude(mel, audio)
    spectrum = linear_magnitude(magnitude, audio)
    assert (spectrum >= 0).all()
    back = mel_filterbank(audio) @ spectrum
    assert np.linalg.norm(back - magnitude) < 0.03 * np.linalg.norm(magnitude)


def test_the_waveform_has_the_delay_of_the_model() -> None:
    audio = dataclasses.replace(VOICE, delay=100)
    mel = mel_spectrogram(vowel(audio, 0.3), audio)
    late, now = (GriffinLim(dataclasses.replace(audio, delay=delay)).vocode(mel) for delay in (100, 0))
    np.testing.assert_array_equal(late[100:], now[:-100])
    assert not late[:100].any()


def test_pre_emphasis_of_the_features_is_undone() -> None:
    plain = dataclasses.replace(VOICE, preemphasis=0.0)
    mel = mel_spectrogram(vowel(plain, 0.3), plain)
    emphasised = GriffinLim(dataclasses.replace(plain, preemphasis=0.9, delay=0)).vocode(mel)
    expected = DeEmphasis(0.9)(GriffinLim(dataclasses.replace(plain, delay=0)).vocode(mel).astype(np.float64))
    np.testing.assert_allclose(emphasised, expected, atol=1e-4)


def test_silence_is_silent() -> None:
    waveform = GriffinLim(VOICE).vocode(np.full((80, 20), VOICE.mel_range[0], np.float32))
    assert np.abs(waveform).max() < 1e-4


@pytest.mark.parametrize("frames", [1, 2, 11])
@pytest.mark.parametrize("name", ["shipped", "fatchord"])
def test_short_mels_give_a_waveform(name: str, frames: int) -> None:
    audio = CONVENTIONS[name]
    mel = mel_spectrogram(vowel(audio), audio)[:, 20 : 20 + frames]
    waveform = GriffinLim(audio).vocode(mel)
    assert waveform.shape == (frames * audio.hop_length,)
    assert np.isfinite(waveform).all()
    assert waveform.std() > 0.01


def test_the_seed_decides_the_waveform() -> None:
    mel = mel_spectrogram(vowel(VOICE, 0.2), VOICE)
    griffin_lim = GriffinLim(VOICE, iterations=2)
    found = [griffin_lim.vocode(mel, seed=seed) for seed in (1, 1, 2**64 - 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_mistakes_are_refused_as_by_a_vocoder() -> None:
    griffin_lim = GriffinLim(VOICE)
    good = np.full((80, 4), -0.5, np.float32)
    for arguments, message in (
        ({"mel": good.T}, "transposed"),
        ({"mel": good * np.nan}, "NaN"),
        ({"mel": good, "sample_rate": 22050}, "22050 Hz"),
        ({"mel": good, "seed": -1}, "seed"),
    ):
        with pytest.raises(VocoderError, match=message):
            griffin_lim.vocode(**arguments)


def test_without_librosa_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(VocoderError, match=r"\.\[fallback\]"):
        GriffinLim(VOICE)
