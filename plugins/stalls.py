"""Kernels that gave up: their blocks wait for each other for a bounded time, and then mark the chunk's last samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WAITS = 1 << 24
"""Polls of a waiting block before its kernel gives up. A poll takes about a microsecond or less, so that the bound is
some ten seconds, where a barrier takes two microseconds."""
_FIRST = 0xFFE80000
"""The smallest mark; see stall_word in kernels/waiting.h."""
_PLACES = {1: "at a barrier", 2: "for operands of a product", 3: "for logits or a sample"}


@dataclass(frozen=True)
class Stall:
    """The place where the first thread gave up."""

    place: str
    """What it waited for."""
    block: int
    """Of the grid, modulo 512."""
    step: int
    """Of the chunk, modulo 1024."""

    def __str__(self) -> str:
        """For messages."""
        return f"block {self.block} waited {self.place} in step {self.step}"


def find_stall(samples: NDArray[Any]) -> Stall | None:
    """Looks for a mark.

    Args:
        samples: [B, T] of a chunk, int32 or float32.

    Returns:
        Where the kernel gave up, or None where it did not.
    """
    if samples.dtype.itemsize != np.dtype(np.uint32).itemsize:
        return None
    last = np.ascontiguousarray(samples[:, -1]).view(np.uint32)
    marks = last[last >= _FIRST]
    if not marks.size:
        return None
    word = int(marks[0])
    return Stall(_PLACES[word >> 19 & 3], word >> 10 & 511, word & 1023)
