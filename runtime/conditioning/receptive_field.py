"""Measures how many frames to either side the rows of a convolutional conditioner depend on.

It is not in the configuration; it is measured by changing a single frame of a mel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import VocoderError

Condition = Callable[[FloatArray], FloatArray]
"""Runs a conditioner: mel [n_mels, N] -> rows [N + 2 * margin, columns]."""

_FARTHEST = 32
"""Frames; published models read two."""
_LOUD = 1e3
"""A frame so far out of range moves every channel that it reaches by more than rounding."""


def receptive_field(model: ModelConfig, n_mels: int, condition: Condition) -> tuple[int, ...]:
    """For each column group, how many frames before or behind a row's own it depends on.

    A frame is set to random numbers and to their negatives: a rectifier that is shut for one is open for the other.

    Args:
        model: names the groups, and their margin.
        n_mels: bins of a mel.
        condition: the conditioner.

    Raises:
        VocoderError: rows depend on frames too far away.
    """
    middle = _FARTHEST + 1
    silence = np.zeros((n_mels, 2 * middle + 1), np.float32)
    rows = condition(silence)
    moved = np.zeros(rows.shape, bool)
    random = np.random.default_rng(0)
    for _ in range(2):
        frame = _LOUD * random.standard_normal(n_mels).astype(np.float32)
        for sign in (1, -1):
            mel = silence.copy()
            mel[:, middle] = sign * frame
            moved |= condition(mel) != rows
    field = []
    edges = np.cumsum([0, *(group.columns for group in model.groups)])
    for first, stop in itertools.pairwise(edges):
        touched = np.flatnonzero(moved[:, first:stop].any(axis=1)) - model.margin - middle
        field.append(int(np.abs(touched).max(initial=0)))
    if max(field) > _FARTHEST:
        raise VocoderError(
            f"mel: found frames that arrive one by one, expected the whole mel: this model's conditioner reads more "
            f"than {_FARTHEST} frames to either side; collect the frames and pass np.concatenate(pieces, axis=1)"
        )
    return tuple(field)
