"""Folding: decodes a long utterance as several shorter streams in parallel (WaveRNN paper, section 5; fatchord).

A fold begins with ``overlap`` samples of warm-up for its recurrent state, which are dropped, and ends with ``overlap``
samples of crossfade into the next. All folds use the conditioning of the whole utterance, so that a bidirectional
conditioner reads all of it. Their random numbers differ: the two sides of a crossfade are then uncorrelated, and gains
whose squares sum to one keep the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.runtime.errors import VocoderError, check_positive

DEFAULT_OVERLAP = 550
"""Samples of warm-up and of crossfade, as in fatchord's hparams."""


@dataclass(frozen=True)
class Fold:
    """Steps of a fold in the utterance: decoded from ``first``, used from ``start``, up to ``stop`` (exclusive)."""

    first: int
    start: int
    stop: int


def plan_folds(steps: int, target: int | None, overlap: int | None = None) -> tuple[Fold, ...]:
    """Cuts an utterance into folds of nearly equal length.

    Args:
        steps: the utterance's steps.
        target: maximum samples of a fold without its overlaps; ``None``: one fold.
        overlap: samples of warm-up and of crossfade; by default 550, but at most half of ``target``.

    Raises:
        VocoderError: ``target`` or ``overlap`` is not a positive integer, or they do not fit together.
    """
    if target is None:
        return (Fold(0, 0, steps),)
    check_positive("fold", target)
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, target // 2)
    if overlap != 0:
        check_positive("overlap", overlap)
    if 2 * overlap > target:
        raise VocoderError(
            f"overlap: found {overlap} samples, expected at most {target // 2}, half of the fold ({target} samples)"
        )
    count = max(1, -(-steps // target))
    edges = [steps * i // count for i in range(count + 1)]  # at least target // 2 apart, so that an overlap fits
    return tuple(Fold(max(0, edges[i] - overlap), edges[i], min(steps, edges[i + 1] + overlap)) for i in range(count))


def join_folds(folds: Sequence[Fold], parts: Sequence[DoubleArray]) -> DoubleArray:
    """Joins the folds' amplitudes with crossfades.

    Args:
        folds: from `plan_folds`.
        parts: for each fold, the amplitudes of its steps ``first`` … ``stop - 1``, expanded from mu-law and still
            pre-emphasised.
    """
    joined = np.zeros(folds[-1].stop)
    for i, (fold, part) in enumerate(zip(folds, parts, strict=True)):
        faded = part[fold.start - fold.first :].copy()
        if i > 0:
            rise = folds[i - 1].stop - fold.start
            faded[:rise] *= _ramp(rise)
        if i + 1 < len(folds):
            fall = fold.stop - folds[i + 1].start
            faded[len(faded) - fall :] *= _ramp(fall)[::-1]
        joined[fold.start : fold.stop] += faded
    return joined


def _ramp(length: int) -> DoubleArray:
    """Returns gains rising from 0 to 1; the squares of a ramp and of its reverse sum to 1."""
    return np.sin(np.pi / 2 * (np.arange(length) + 0.5) / max(length, 1))
