"""Conversion of samples to 16-bit integers, with and without dither."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.export.config import ColumnGroup, ModelConfig
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.streaming.pcm import Int16Encoder, to_int16


def noise(count: int, level: float = 1.1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-level, level, count).astype(np.float32)


def through_a_file(samples: np.ndarray) -> np.ndarray:
    """Samples after soundfile wrote and read them as 16-bit PCM, as in `write_wav`."""
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, subtype="PCM_16", format="WAV")
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="int16")[0])


def encode(samples: np.ndarray, **settings: Any) -> np.ndarray:
    out = np.empty(len(samples), np.int16)
    Int16Encoder(**settings).encode(samples, out)
    return out


def test_samples_become_the_nearest_step() -> None:
    samples = noise(300_000)
    steps = np.clip(samples.astype(np.float64) * 32768, -32768, 32767)
    assert np.abs(to_int16(samples) - steps).max() <= 0.5


def test_libsndfile_rounds_down_where_this_rounds_to_the_nearest() -> None:
    samples = noise(300_000)
    floored = through_a_file(samples)
    assert np.array_equal(floored, np.clip(np.floor(samples * np.float64(32768)), -32768, 32767))
    ties = samples * np.float64(65536) % 2 == 1
    shifted = through_a_file(samples + np.float64(0.5 / 32768))  # half a step higher, rounding down gives the nearest
    assert np.array_equal(to_int16(samples)[~ties], shifted[~ties])


def test_a_file_of_these_samples_holds_them_unchanged() -> None:
    encoded = to_int16(noise(10_000))
    assert np.array_equal(through_a_file(encoded), encoded)
    assert np.array_equal(to_int16(encoded.astype(np.float32) / 32768), encoded)


def test_extremes_are_defined() -> None:
    values = [1, -1, 2, -2, np.inf, -np.inf, np.nan, 0.5 / 32768, 1.5 / 32768, -0.5 / 32768, -1e-6, 3e38]
    expected = [32767, -32768, 32767, -32768, 32767, -32768, 0, 0, 2, 0, 0, 32767]
    with np.errstate(over="ignore"):
        assert to_int16(np.array(values, np.float32)).tolist() == expected
    assert encode(np.array([np.nan, np.inf], np.float32), dither=True).tolist() == [0, 32767]


@given(
    cuts=st.lists(st.integers(0, 700), min_size=1, max_size=8),
    dither=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    stride=st.integers(1, 3),
)
def test_cutting_changes_no_bit(cuts: list[int], dither: bool, seed: int, stride: int) -> None:
    samples = noise(sum(cuts))
    together = encode(samples, dither=dither, seed=seed)
    out = np.empty(sum(cuts) * stride, np.int16)[::stride]
    encoder, start = Int16Encoder(dither=dither, seed=seed), 0
    for cut in cuts:
        encoder.encode(samples[start : start + cut], out[start : start + cut])
        start += cut
    assert np.array_equal(out, together)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_with_dither_the_error_does_not_depend_on_the_signal(fraction: float) -> None:
    """In steps, the error has mean 0 and power 1/4 for all signals: 1/6 of dither and 1/12 of rounding."""
    samples = np.full(400_000, (100 + fraction) / 32768, np.float32)
    error = encode(samples, dither=True, seed=3) - (100 + fraction)
    assert error.mean() == pytest.approx(0, abs=0.004)
    assert (error**2).mean() == pytest.approx(0.25, abs=0.004)
    assert np.abs(error).max() <= 1.5
    plain = encode(samples[:10]) - (100 + fraction)
    assert np.ptp(plain) == 0, "without dither, the error is constant"


def test_dither_is_of_triangular_density() -> None:
    steps = encode(np.full(400_000, 0.5 / 32768, np.float32), dither=True)
    values, counts = np.unique(steps, return_counts=True)
    # The noise around half a step lies between -1/2 and 3/2, half of it on each side.
    assert values.tolist() == [0, 1]
    assert counts / counts.sum() == pytest.approx([0.5, 0.5], abs=0.004)
    values, counts = np.unique(encode(np.zeros(400_000, np.float32), dither=True), return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert counts / counts.sum() == pytest.approx([1 / 8, 3 / 4, 1 / 8], abs=0.004)


def test_dither_has_a_seed_and_differs_from_the_numbers_of_the_decoder() -> None:
    silence = np.zeros(20_000, np.float32)
    assert not np.array_equal(encode(silence, dither=True, seed=1), encode(silence, dither=True, seed=2))
    model = ModelConfig("fatchord", "categorical", 16, 4, (4,), (4,), (ColumnGroup("mel", 4, "held"),))
    drawn = SeededUniforms(model, 1).draw(40_000).reshape(-1, 2)
    same = np.rint(drawn.sum(axis=1) - 1)
    assert abs(np.corrcoef(encode(silence, dither=True, seed=1), same)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("samples", "out"),
    [
        (np.zeros(3), np.zeros(3, np.int16)),
        (np.zeros(3, np.float32), np.zeros(3, np.int32)),
        (np.zeros(3, np.float32), np.zeros(4, np.int16)),
        (np.zeros((3, 1), np.float32), np.zeros((3, 1), np.int16)),
    ],
)
def test_other_arrays_are_refused(samples: Any, out: Any) -> None:
    with pytest.raises(VocoderError, match=r"PCM: found .*, expected float32 \[n\] into int16 \[n\]"):
        Int16Encoder().encode(samples, out)


def test_the_seed_is_checked() -> None:
    with pytest.raises(VocoderError, match="seed: found -1"):
        Int16Encoder(dither=True, seed=-1)
