"""Streams of random conditioning, and the comparison of their samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, WholeConditioning
from wavernn_trt.runtime.decoding.chunk_loop import Stream
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms


def random_streams(windows: ConditioningWindows, lengths: list[int]) -> list[Stream]:
    """One stream for each number of steps, numbered in that order."""
    model, found = windows.model, []
    for seed, steps in enumerate(lengths):
        frames = -(-steps // windows.hop_length) + 2 * model.margin
        rows = np.random.default_rng(seed).standard_normal((frames, model.columns)).astype(np.float32)
        conditioning = WholeConditioning(windows, rows)
        found.append(Stream(conditioning, SeededUniforms(model, seed), 0, steps, number=seed))
    return found


def equal(found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> bool:
    """Whether all arrays have equal types and bits."""
    return all(
        one.dtype == other.dtype and np.array_equal(one, other) for one, other in zip(found, expected, strict=True)
    )
