"""Random numbers of streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.export.config import ColumnGroup, ModelConfig, Output
from wavernn_trt.runtime.decoding.uniforms import GivenUniforms, SeededUniforms
from wavernn_trt.runtime.errors import VocoderError


def model(output: Output = "categorical") -> ModelConfig:
    outputs = {"categorical": 16, "logistic_mixture": 30, "gaussian": 2}[output]
    return ModelConfig("fatchord", output, outputs, 4, (4,), (4,), (ColumnGroup("mel", 4, "held"),))


@given(
    seed=st.integers(0, 2**64 - 1),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    output=st.sampled_from(["categorical", "logistic_mixture", "gaussian"]),
)
def test_the_numbers_of_a_stream_do_not_depend_on_its_chunks(seed: int, cuts: list[int], output: Output) -> None:
    together = SeededUniforms(model(output), seed).draw(sum(cuts))
    source = SeededUniforms(model(output), seed)
    assert np.array_equal(np.concatenate([source.draw(cut) for cut in cuts]), together)
    assert together.dtype == np.float32
    assert together.shape == (sum(cuts), model(output).uniforms)
    assert ((together >= 0) & (together < 1)).all()


def test_the_generator_is_philox_with_the_seed_as_its_key() -> None:
    expected = np.random.Generator(np.random.Philox(key=42)).random((1000, 1), dtype=np.float32)
    assert np.array_equal(SeededUniforms(model(), 42).draw(1000), expected)


def test_other_seeds_and_other_folds_have_other_numbers() -> None:
    drawn = [SeededUniforms(model(), seed, fold).draw(64).tobytes() for seed in (0, 1, 2**64 - 1) for fold in (0, 1)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_invalid_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(VocoderError, match=r"expected an integer from 0 to 2\*\*64 - 1"):
        SeededUniforms(model(), seed)


def test_numbers_are_limited_to_where_samplers_are_defined() -> None:
    top = float(np.nextafter(1, 0))
    assert GivenUniforms(model(), [top], 1).draw(1)[0, 0] == np.float32(1 - 2**-23)
    assert GivenUniforms(model(), [0.0], 1).draw(1)[0, 0] == 0
    logistic = GivenUniforms(model("logistic_mixture"), [[top, top], [0, 0]], 2).draw(2)
    assert logistic.tolist() == np.float32([[1 - 2**-23, 1 - 1e-5], [0, 1e-5]]).tolist()
    gaussian = GivenUniforms(model("gaussian"), [[top, 0.25], [0, 0.75]], 2).draw(2)
    assert gaussian.tolist() == np.float32([[1 - 1e-5, 0.25], [1e-5, 0.75]]).tolist()


@pytest.mark.parametrize(
    ("output", "uniforms", "message"),
    [
        ("categorical", [0.5] * 4, "found 4 steps, expected at least 5"),
        ("categorical", np.full((5, 2), 0.5), r"found shape \(5, 2\), expected \[steps\] or \[steps, 1\]"),
        ("logistic_mixture", [0.5] * 5, r"found shape \(5,\), expected \[steps, 2\]"),
        ("categorical", [0.5] * 4 + [1.0], r"outside \[0, 1\)"),
        ("categorical", [0.5] * 4 + [-0.1], r"outside \[0, 1\)"),
        ("categorical", [0.5] * 4 + [float("nan")], r"outside \[0, 1\)"),
        ("categorical", ["a"] * 5, "expected numbers"),
    ],
)
def test_invalid_numbers_are_refused(output: Output, uniforms: Any, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        GivenUniforms(model(output), uniforms, 5)


def test_the_caller_s_array_is_not_changed() -> None:
    given = np.ones((3, 1), np.float32) * np.float32(1 - 2**-24)
    GivenUniforms(model(), given, 3).draw(3)
    assert (given == np.float32(1 - 2**-24)).all()
