"""Scores: bits and correlation against their definitions, for any batch and length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.calibration.likelihood import bits_of_samples
from wavernn_trt.calibration.likeness import Moments
from wavernn_trt.calibration.score import analyse, compare_speech, fit_speech, score
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.vocoder import Vocoder

RATE = 16000


def speech(samples: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    loudness = np.interp(np.arange(samples), np.linspace(0, samples, 9), rng.uniform(0.01, 0.5, 9))
    return (rng.normal(size=samples) * loudness).clip(-1, 1).astype(np.float32)


def with_delay(vocoder: Vocoder, delay: int) -> Vocoder:
    audio = dataclasses.replace(vocoder.config.audio, delay=delay)
    return Vocoder(dataclasses.replace(vocoder.loaded, audio=audio))


@pytest.mark.parametrize("samples", [41, 700, 719, 720])
def test_bits_are_the_mean_over_the_recordings_own_samples(tiny_vocoder: Vocoder, samples: int) -> None:
    waveform = speech(samples)
    labels = SampleCoding(tiny_vocoder.config.model, tiny_vocoder.config.audio).samples(waveform)
    logits = tiny_vocoder.teacher_forced(tiny_vocoder.mel(waveform, RATE), labels)
    found = score(tiny_vocoder, waveform, RATE, free_running=False)
    assert found.samples == samples
    assert found.bits == pytest.approx(float(bits_of_samples(tiny_vocoder.config.model, logits, labels).mean()))
    assert (found.correlation, found.seconds) == (None, 0.0)


@pytest.mark.parametrize(("samples", "scored"), [(700, 700), (719, 710), (720, 720)])
def test_a_delayed_model_is_fed_silence_first_which_does_not_count(
    tiny_vocoder: Vocoder, samples: int, scored: int
) -> None:
    vocoder, delay = with_delay(tiny_vocoder, 10), 10
    waveform = speech(samples)
    late = np.concatenate([np.zeros(delay, np.float32), waveform])[: scored + delay]
    labels = SampleCoding(vocoder.config.model, vocoder.config.audio).samples(late)
    logits = vocoder.teacher_forced(vocoder.mel(waveform, RATE), labels)
    found = score(vocoder, waveform, RATE, free_running=False)
    assert found.samples == scored
    expected = bits_of_samples(vocoder.config.model, logits, labels)[delay:].mean()
    assert found.bits == pytest.approx(float(expected))


def test_correlation_is_between_the_log_mels_of_output_and_recording(tiny_vocoder: Vocoder) -> None:
    vocoder, delay = with_delay(tiny_vocoder, 10), 10
    waveform = speech(1000)
    found = score(vocoder, waveform, RATE, seed=3)
    output = vocoder.vocode(vocoder.mel(waveform, RATE), seed=3)[delay : delay + 1000]
    mels = [mel_spectrogram(each, vocoder.config.audio).ravel() for each in (output, waveform[: len(output)])]
    assert found.correlation == pytest.approx(float(np.corrcoef(*mels)[0, 1]), abs=1e-6)
    assert found.seconds == len(output) / RATE
    assert score(vocoder, waveform, RATE, seed=4).correlation != found.correlation


def test_seconds_limit_the_output_but_not_the_bits(tiny_vocoder: Vocoder) -> None:
    waveform = speech(2000)
    cut, whole = (score(tiny_vocoder, waveform, RATE, seconds=seconds) for seconds in (0.05, None))
    assert (cut.bits, cut.samples) == (whole.bits, whole.samples)
    assert (cut.seconds, whole.seconds) == (0.05, 0.125)
    output = tiny_vocoder.vocode(tiny_vocoder.mel(waveform, RATE))[:800]
    mels = [mel_spectrogram(each, tiny_vocoder.config.audio).ravel() for each in (output, waveform[:800])]
    assert cut.correlation == pytest.approx(float(np.corrcoef(*mels)[0, 1]), abs=1e-6)
    for seconds in (0.0, -1.0, float("nan"), 1e-9):
        with pytest.raises(VocoderError, match="expected a positive number"):
            score(tiny_vocoder, waveform, RATE, seconds=seconds)


def test_neighbours_in_a_batch_do_not_change_a_score(
    tiny_vocoder: Vocoder, tiny_vocoder_of_three: Vocoder, make_vocoder: Callable[..., Vocoder]
) -> None:
    recordings = [speech(samples, seed) for seed, samples in enumerate((500, 60, 1300, 700))]

    def all_of(vocoder: Vocoder) -> tuple[dict[int, float], dict[int, float | None]]:
        speeches = [analyse(vocoder.config.audio, waveform, RATE) for waveform in recordings]
        bits = {index: fit.bits for index, fit in fit_speech(vocoder.loaded, speeches)}
        return bits, {index: each.moments.correlation for index, _, each in compare_speech(vocoder, speeches)}

    alone, together = all_of(tiny_vocoder), all_of(tiny_vocoder_of_three)
    assert sorted(alone[0]) == sorted(alone[1]) == [0, 1, 2, 3]
    for index, bits in alone[0].items():
        assert together[0][index] == pytest.approx(bits, rel=1e-6)


def test_a_constant_has_no_correlation(tiny_vocoder: Vocoder) -> None:
    assert Moments.of(np.full((3, 4), 0.3), np.arange(12).reshape(3, 4)).correlation is None
    assert Moments().correlation is None
    assert score(tiny_vocoder, np.zeros(500, np.float32), RATE).correlation is None


def test_moments_of_parts_add_up() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    parts = Moments.of(x[:20], y[:20]) + Moments.of(x[20:], y[20:])
    assert parts.correlation == pytest.approx(float(np.corrcoef(x, y)[0, 1]))


@pytest.mark.parametrize("waveform", [np.zeros(0, np.float32), np.full(100, np.nan, np.float32), np.zeros((2, 9))])
def test_an_invalid_waveform_is_refused(tiny_vocoder: Vocoder, waveform: NDArray[np.float32]) -> None:
    with pytest.raises(VocoderError, match="waveform"):
        score(tiny_vocoder, waveform, RATE)
