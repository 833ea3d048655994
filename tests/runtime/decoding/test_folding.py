"""Folds of an utterance, and their crossfades."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.runtime.decoding.folding import Fold, join_folds, plan_folds
from wavernn_trt.runtime.errors import VocoderError


@given(steps=st.integers(1, 5000), target=st.integers(1, 900), data=st.data())
def test_folds_cover_every_sample_and_overlap_where_they_meet(steps: int, target: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, target // 2))
    folds = plan_folds(steps, target, overlap)
    assert folds[0].first == folds[0].start == 0
    assert folds[-1].stop == steps
    for before, after in pairwise(folds):
        assert before.stop == min(steps, after.start + overlap)
        assert after.start - after.first == overlap  # warm-up
        assert before.start < after.start <= before.start + target
    for fold, two_on in zip(folds, folds[2:], strict=False):
        assert fold.stop <= two_on.start  # at most two overlap


@given(steps=st.integers(1, 600), target=st.integers(8, 400), data=st.data())
def test_squared_gains_sum_to_one_everywhere(steps: int, target: int, data: st.DataObject) -> None:
    folds = plan_folds(steps, target, data.draw(st.integers(0, target // 2)))
    power = np.zeros(steps)
    for i in range(len(folds)):
        alone = [np.full(fold.stop - fold.first, float(i == j)) for j, fold in enumerate(folds)]
        power += join_folds(folds, alone) ** 2
    np.testing.assert_allclose(power, 1, atol=1e-12)


@given(steps=st.integers(1, 600), target=st.integers(8, 400), data=st.data())
def test_samples_outside_crossfades_are_joined_at_their_own_steps(steps: int, target: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, target // 2))
    folds = plan_folds(steps, target, overlap)
    joined = join_folds(folds, [np.arange(fold.first, fold.stop, dtype=np.float64) for fold in folds])
    outside = np.ones(steps, bool)
    for fold in folds[1:]:
        outside[fold.start : fold.start + overlap] = False
    assert np.array_equal(joined[outside], np.arange(steps)[outside])


def test_noise_keeps_its_level_across_crossfades() -> None:
    random = np.random.default_rng(0)
    folds = plan_folds(400_000, 2000, 500)
    joined = join_folds(folds, [random.standard_normal(fold.stop - fold.first) for fold in folds])
    inside = np.zeros(400_000, bool)
    for fold in folds[1:]:
        inside[fold.start : fold.start + 500] = True
    assert joined[inside].std() == pytest.approx(joined[~inside].std(), rel=0.02)


@pytest.mark.parametrize("steps", [1, 11_000])
def test_a_short_utterance_is_one_fold(steps: int) -> None:
    assert plan_folds(steps, 11_000) == (Fold(0, 0, steps),)
    assert plan_folds(steps, None) == (Fold(0, 0, steps),)


@pytest.mark.parametrize(
    ("target", "overlap", "message"),
    [
        (0, None, "fold: found 0, expected a positive"),
        (1.5, None, "fold: found 1.5"),
        (True, None, "fold: found True"),
        (1000, -1, "overlap: found -1"),
        (1000, 501, "overlap: found 501 samples, expected at most 500, half of the fold"),
    ],
)
def test_invalid_folds_are_refused(target: Any, overlap: Any, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        plan_folds(5000, target, overlap)
