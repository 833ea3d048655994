"""Mel features, compared with librosa for the settings of each family."""

from __future__ import annotations

import numpy as np
import pytest
from audio_conventions import FATCHORD, PUBLISHED, SHIPPED, TURIAN, UNIVOC
from numpy.typing import NDArray

from wavernn_trt.runtime.features import mel_filterbank, mel_spectrogram, pre_emphasis

FAMILIES = {**PUBLISHED, "shipped": SHIPPED}


def speechlike(samples: int, rate: int) -> NDArray[np.float64]:
    """A buzz with noise, alternately loud and silent, to reach both ends of the range."""
    time = np.arange(samples) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30))
    noise = np.random.default_rng(0).standard_normal(samples) * 0.05
    return np.asarray((buzz / 4 + noise) * (np.sin(2 * np.pi * 3 * time) > 0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("samples", [2100, 16001])
def test_features_are_librosa_s(family: str, samples: int) -> None:
    librosa = pytest.importorskip("librosa")
    audio = FAMILIES[family]
    signal = speechlike(samples, audio.sample_rate)
    emphasised = librosa.effects.preemphasis(signal, coef=audio.preemphasis, zi=[0.0]) if audio.preemphasis else signal
    framing = {"n_fft": audio.n_fft, "hop_length": audio.hop_length, "win_length": audio.win_length}
    spectrum = np.abs(librosa.stft(emphasised, pad_mode=audio.pad_mode, **framing))
    filters = {"n_mels": 80, "fmin": audio.fmin, "fmax": audio.fmax, "norm": 1 if audio.mel_norm == "sum" else "slaney"}
    bank = librosa.filters.mel(sr=audio.sample_rate, n_fft=audio.n_fft, dtype=np.float64, **filters)
    magnitude = np.maximum(bank @ spectrum, 1e-5)
    if audio.log == "natural":
        expected = np.log(magnitude)
    else:
        low, high = audio.mel_range
        share = (20 * np.log10(magnitude) - audio.reference_db - audio.min_level_db) / -audio.min_level_db
        expected = np.clip(low + (high - low) * share, low, high if audio.clip_high else np.inf)
    found = mel_spectrogram(signal.astype(np.float64), audio)  # type: ignore[arg-type]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(mel_filterbank(audio), bank, atol=1e-9)


def test_turian_s_stored_mel_range_is_reached() -> None:
    mel = mel_spectrogram(speechlike(16000, 16000).astype(np.float32), TURIAN)
    assert mel.min() == -4
    assert mel.max() <= 4


def test_a_frame_is_centred_on_its_sample() -> None:
    click = np.zeros(16000, np.float32)
    click[40 * 200] = 1
    assert mel_spectrogram(click, TURIAN).sum(axis=0).argmax() == 40


def test_pre_emphasis_starts_from_silence() -> None:
    np.testing.assert_allclose(pre_emphasis(np.array([1.0, 1.0, 0.0]), 0.9), [1, 0.1, -0.9])


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((4, 2)), np.array([np.nan])])
def test_invalid_waveforms_are_refused(bad: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"expected \[samples\]|NaN"):
        mel_spectrogram(bad.astype(np.float32), UNIVOC)


def test_reflect_padding_needs_half_a_window() -> None:
    with pytest.raises(ValueError, match="at least 1025"):
        mel_spectrogram(np.zeros(1024, np.float32), FATCHORD)
