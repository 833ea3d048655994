"""Differences of waveforms: distortion, level and clipping against what a known filter and gain make of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.calibration.likeness import Likeness, likeness, mel_cepstral_distortion
from wavernn_trt.runtime.vocoder import Vocoder

RATE = 16000


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def hertz_of_bands(count: int) -> NDArray[np.float64]:
    """Centres of bands on Slaney's mel scale, from 0 Hz to half the rate."""
    mel = np.linspace(0, 15 + np.log(RATE / 2 / 1000) / np.log(6.4) * 27, count + 2)[1:-1]
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.maximum(mel - 15, 0) * np.log(6.4) / 27))


def test_distortion_is_the_spread_of_a_smooth_filters_level_over_the_bands() -> None:
    original = noise(RATE)
    filtered = original - 0.7 * np.concatenate([[0], original[:-1]])  # H(f) = 1 - 0.7 e^(-2 pi i f / rate)
    found = mel_cepstral_distortion(filtered.astype(np.float32), original, RATE).mean()
    decibels = 20 * np.log10(np.abs(1 - 0.7 * np.exp(-2j * np.pi * hertz_of_bands(40) / RATE)))
    assert found == pytest.approx(decibels.std(), rel=0.05)


def test_a_gain_changes_the_level_but_not_the_distortion(tiny_vocoder: Vocoder) -> None:
    original, audio = noise(8000), tiny_vocoder.config.audio
    found = likeness(original * np.float32(2.0), original, audio).measures()
    assert found["level_db"] == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert found["distortion_db"] == pytest.approx(0, abs=1e-5)
    assert found["clipped"] == 0
    assert found["words_wrong"] is found["f0_error_cents"] is None
    loud = likeness(original * np.float32(20.0), original, audio)
    assert loud.clipped == int((np.abs(original) > 0.05).sum()) > 0
    assert loud.measures()["clipped"] == loud.clipped / 8000


def test_quiet_frames_are_not_in_the_distortion() -> None:
    original = noise(RATE)
    original[RATE // 2 :] *= 1e-3
    output = original.copy()
    output[RATE // 2 + 400 :] = noise(RATE // 2 - 400, seed=1)  # differs only where the recording is quiet
    assert mel_cepstral_distortion(output, original, RATE).mean() < 0.5
    assert len(mel_cepstral_distortion(output, original, RATE)) == pytest.approx(100, abs=4)


def test_likenesses_add_up(tiny_vocoder: Vocoder) -> None:
    audio = tiny_vocoder.config.audio
    parts = [likeness(noise(n, seed), noise(n, seed + 9), audio) for seed, n in enumerate((4000, 9000))]
    total = sum(parts, Likeness())
    assert total.samples == 13000
    assert total.frames == sum(part.frames for part in parts)
    mean = sum(part.distortion for part in parts) / total.frames
    assert total.measures()["distortion_db"] == pytest.approx(mean)
    assert Likeness().measures()["correlation"] is Likeness().measures()["level_db"] is None
