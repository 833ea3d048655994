"""Checks of mels: type, shape, range and sample rate."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.mel import check_mel

FATCHORD = AudioConfig(sample_rate=22050, hop_length=275, win_length=1100, n_fft=2048)
UNIVOC = dataclasses.replace(
    FATCHORD, sample_rate=16000, reference_db=20.0, min_level_db=-80.0, mel_range=(-1.0, 0.0), clip_high=False
)
NATURAL = dataclasses.replace(FATCHORD, log="natural")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_mels_become_contiguous_float32(dtype: type) -> None:
    mel = np.asfortranarray(np.full((80, 3), 0.5, dtype))
    checked = check_mel(mel, FATCHORD)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    assert (checked == 0.5).all()


def test_a_batch_axis_of_one_is_removed() -> None:
    mel = np.linspace(0, 1, 400, dtype=np.float32).reshape(1, 80, 5)
    assert np.array_equal(check_mel(mel, FATCHORD), mel[0])


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (np.zeros((80, 0)), "no frames"),
        (np.zeros((5, 80)), r"found shape \(5, 80\), expected \[80, frames\]; it looks transposed: pass mel.T"),
        (np.zeros((2, 80, 5)), "one by one, or as a list to vocode_batch"),
        (np.zeros((1, 5, 80)), r"transposed mel of a batch of one: pass mel\[0\].T"),
        (np.zeros((40, 5)), r"found shape \(40, 5\), expected \[80, frames\]$"),
        (np.zeros(80), r"found shape \(80,\)"),
        (np.zeros((80, 5), np.int16), "found int16, expected floating-point numbers"),
        (np.full((80, 5), "a"), "expected floating-point"),
        ([[0.0], [0.0, 1.0]], "rows of different lengths"),
        (None, "found object"),
        (np.full((80, 5), np.nan), "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_mel_are_refused(mel: Any, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        check_mel(mel, FATCHORD)


@pytest.mark.parametrize(
    ("audio", "low", "high"),
    [
        (FATCHORD, -11.5, 1.5),  # natural log
        (FATCHORD, -100.0, 0.0),  # decibels
        (FATCHORD, -4.0, 4.0),  # Coqui's range
        (UNIVOC, 0.0, 1.0),  # fatchord's range
        (dataclasses.replace(FATCHORD, mel_range=(-4.0, 4.0)), -11.5, 1.5),
        (NATURAL, -100.0, 0.0),
    ],
)
def test_another_convention_s_mel_is_refused_with_both_ranges(audio: AudioConfig, low: float, high: float) -> None:
    mel = np.linspace(low, high, 800).reshape(80, 10)
    with pytest.raises(VocoderError, match=rf"found values from {low:g} to {high:g}, expected about .* Vocoder.mel"):
        check_mel(mel, audio)


@pytest.mark.parametrize(
    ("audio", "low", "high"), [(FATCHORD, -0.1, 1.1), (UNIVOC, -1.0, 0.15), (NATURAL, -11.52, 2.0)]
)
def test_overshoot_is_accepted(audio: AudioConfig, low: float, high: float) -> None:
    mel = np.linspace(low, high, 800).reshape(80, 10)
    assert np.array_equal(check_mel(mel, audio), mel.astype(np.float32))


def test_another_sample_rate_is_refused() -> None:
    mel = np.zeros((80, 4))
    assert check_mel(mel, FATCHORD, 22050).shape == (80, 4)
    with pytest.raises(VocoderError, match=r"made for 16000 Hz, expected 22050 Hz.*hop length 275"):
        check_mel(mel, FATCHORD, 16000)
