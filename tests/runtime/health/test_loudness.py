"""Frames whose mel is too loud for a constant waveform, in every convention of mels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ColumnGroup, ModelConfig
from wavernn_trt.export.settings.presets import PRESETS
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.health.loudness import Loudness, frame_amplitudes, loud_amplitude

CONVENTIONS = {name: AudioConfig(**PRESETS[name].audio) for name in ("univoc-0.2", "fatchord", "coqui", "turian")}
CONVENTIONS["natural"] = dataclasses.replace(CONVENTIONS["coqui"], log="natural")
MODEL = ModelConfig("univoc", "categorical", 256, 4, (3,), (3,), (ColumnGroup("mel", 12, "held"),), mu_law=True)


def speech_like(audio: AudioConfig) -> NDArray[np.float32]:
    """A second of noise, louder at low frequencies, with a root mean square of 0.1."""
    random = np.random.default_rng(0)
    spectrum = np.fft.rfft(random.standard_normal(audio.sample_rate))
    spectrum *= 1 / (1 + np.fft.rfftfreq(audio.sample_rate, 1 / audio.sample_rate) / 1500)
    spectrum[:200] = 0
    signal = np.fft.irfft(spectrum, audio.sample_rate)
    return (0.1 * signal / np.sqrt((signal**2).mean())).astype(np.float32)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_amplitude_of_a_frame_follows_from_its_mel(name: str) -> None:
    audio = CONVENTIONS[name]
    inside = slice(12, -12)  # frames whose window lies in the signal
    for gain in (1.0, 0.1):
        mel = mel_spectrogram(gain * speech_like(audio), audio)
        decibels = 20 * np.log10(frame_amplitudes(mel, audio)[inside] / (0.1 * gain))
        assert np.abs(decibels).mean() < 2.0
        assert np.abs(decibels).max() < 5.0


@pytest.mark.parametrize("name", CONVENTIONS)
def test_speech_is_loud_and_neither_silence_nor_hum_is(name: str) -> None:
    audio = CONVENTIONS[name]
    seconds = np.arange(audio.sample_rate) / audio.sample_rate
    loud = {
        what: Loudness(MODEL, audio, mel_spectrogram(signal, audio)).loud_samples(0, audio.sample_rate)
        for what, signal in {
            "speech": speech_like(audio),
            "silence": np.zeros(audio.sample_rate, np.float32),
            "hiss": 1e-4 * speech_like(audio),
            "hum": 0.5 * np.sin(2 * np.pi * 50 * seconds),
        }.items()
    }
    assert loud["speech"] > 0.9 * audio.sample_rate
    assert loud["silence"] == loud["hiss"] == 0
    assert loud["hum"] < 0.1 * audio.sample_rate  # its edges


def test_samples_are_counted_by_the_frame_they_lie_in() -> None:
    audio = CONVENTIONS["univoc-0.2"]
    low, high = audio.mel_range
    mel = np.full((audio.n_mels, 6), low, np.float32)
    mel[:, [1, 2, 4]] = high
    loudness = Loudness(MODEL, audio, mel)
    hop = audio.hop_length
    assert loudness.loud_samples(0, 6 * hop) == 3 * hop
    assert loudness.loud_samples(hop - 1, hop + 1) == 1
    assert loudness.loud_samples(3 * hop, 4 * hop) == 0
    assert loudness.loud_samples(2 * hop + 50, 4 * hop + 7) == hop - 50 + 7
    assert loudness.loud_samples(0, 600 * hop) == 3 * hop  # frames after the end do not count


def test_frames_may_arrive_in_pieces() -> None:
    audio = CONVENTIONS["fatchord"]
    mel = mel_spectrogram(speech_like(audio), audio)
    whole, growing = Loudness(MODEL, audio, mel), Loudness(MODEL, audio)
    assert growing.loud_samples(0, 10**6) == 0
    for start in range(0, mel.shape[1], 7):
        growing.extend(mel[:, start : start + 7])
    for stop in range(0, mel.shape[1] * audio.hop_length, 1000):
        assert growing.loud_samples(500, 500 + stop) == whole.loud_samples(500, 500 + stop)


def test_coarser_samples_need_a_louder_mel() -> None:
    audio = CONVENTIONS["fatchord"]
    linear = dataclasses.replace(MODEL, mu_law=False)
    mixture = dataclasses.replace(MODEL, family="coqui", output="gaussian", outputs=2, mu_law=False)
    quiet, coarse = loud_amplitude(MODEL, audio), loud_amplitude(linear, audio)
    assert coarse == pytest.approx(16 * 2 / 255)
    assert quiet < coarse / 20
    assert loud_amplitude(dataclasses.replace(linear, outputs=1024), audio) == pytest.approx(coarse / 4, rel=0.01)
    assert loud_amplitude(mixture, audio) == pytest.approx(10 ** (-50 / 20))
    emphasised = dataclasses.replace(audio, waveform_preemphasis=0.85)
    assert loud_amplitude(MODEL, emphasised) == pytest.approx(quiet / 0.15)
