"""Folding: a long utterance decoded as several shorter ones at a time (WaveRNN paper, section 5, as fatchord does it).

Each fold is a stream of its own. It begins with ``overlap`` samples that are thrown away, while its recurrent state
finds its way into the speech, and ends with ``overlap`` samples over which it fades into the next. Folds share the
whole utterance's conditioning, so that a bidirectional conditioner hears all of it, and differ in their random numbers:
the two sides of a crossfade are then uncorrelated, and gains whose squares sum to one keep the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.runtime.errors import VocoderError

DEFAULT_OVERLAP = 550
"""Samples of warm-up and of crossfade, as fatchord's hparams have it."""


@dataclass(frozen=True)
class Fold:
    """One fold's steps in the utterance: decoded from ``first``, heard from ``start``, ended before ``stop``."""

    first: int
    start: int
    stop: int


def plan_folds(steps: int, target: int | None, overlap: int | None = None) -> tuple[Fold, ...]:
    """Cuts an utterance into folds of nearly equal length, none longer than ``target`` before its crossfade.

    Args:
        steps: the utterance's steps; one that is no longer than ``target`` stays whole.
        target: samples of a fold; ``None`` leaves the utterance whole.
        overlap: samples of warm-up and of crossfade; by default 550, or half of a ``target`` too short for that.

    Raises:
        VocoderError: ``target`` or ``overlap`` is not a positive integer, or they do not fit together.
    """
    if target is None:
        return (Fold(0, 0, steps),)
    _require_positive("fold", target)
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, target // 2)
    if overlap != 0:
        _require_positive("overlap", overlap)
    if 2 * overlap > target:
        raise VocoderError(
            f"overlap: found {overlap} samples, expected at most {target // 2}, half of the fold ({target} samples)"
        )
    count = max(1, -(-steps // target))
    edges = [steps * i // count for i in range(count + 1)]  # at least target // 2 apart, so an overlap fits
    return tuple(Fold(max(0, edges[i] - overlap), edges[i], min(steps, edges[i + 1] + overlap)) for i in range(count))


def join_folds(folds: Sequence[Fold], parts: Sequence[DoubleArray]) -> DoubleArray:
    """Crossfades the folds' amplitudes into the utterance's.

    Args:
        folds: as `plan_folds` cut them.
        parts: for each fold, the amplitudes of its steps ``first`` … ``stop - 1``; mu-law is undone, pre-emphasis not.
    """
    joined = np.zeros(folds[-1].stop)
    for i, (fold, part) in enumerate(zip(folds, parts, strict=True)):
        heard = part[fold.start - fold.first :].copy()
        if i > 0:
            rise = folds[i - 1].stop - fold.start
            heard[:rise] *= _ramp(rise)
        if i + 1 < len(folds):
            fall = fold.stop - folds[i + 1].start
            heard[len(heard) - fall :] *= _ramp(fall)[::-1]
        joined[fold.start : fold.stop] += heard
    return joined


def _ramp(length: int) -> DoubleArray:
    """Gains rising from 0 to 1; with itself reversed, the squares sum to 1."""
    return np.sin(np.pi / 2 * (np.arange(length) + 0.5) / max(length, 1))


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise VocoderError(f"{name}: found {value!r}, expected a positive number of samples")
