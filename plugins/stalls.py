"""Detects kernels that stopped waiting: blocks wait for each other for a bounded time, then mark the last samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WAITS = 1 << 24
"""Maximum number of polls of a waiting block. A poll takes at most about a microsecond, so the limit is about ten
seconds; a barrier takes two microseconds."""
_FIRST = 0xFFE80000
"""The smallest mark; see stall_word in kernels/waiting.h."""
_PLACES = {1: "at a barrier", 2: "for operands of a product", 3: "for logits or a sample"}


@dataclass(frozen=True)
class Stall:
    """Where the first thread stopped waiting."""

    place: str
    """Kind of wait."""
    block: int
    """Block of the grid, modulo 512."""
    step: int
    """Step of the chunk, modulo 1024."""

    def __str__(self) -> str:
        return f"block {self.block} waited {self.place} in step {self.step}"


def find_stall(samples: NDArray[Any]) -> Stall | None:
    """Reads the mark of a kernel from the samples of a chunk, int32 or float32 [B, T]; None if it has none."""
    if samples.dtype.itemsize != np.dtype(np.uint32).itemsize:
        return None
    last = np.ascontiguousarray(samples[:, -1]).view(np.uint32)
    marks = last[last >= _FIRST]
    if not marks.size:
        return None
    word = int(marks[0])
    return Stall(_PLACES[word >> 19 & 3], word >> 10 & 511, word & 1023)
