"""What a kernel leaves whose blocks waited in vain for each other: a mark in the place of a chunk's last samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST = 0xFFE80000
"""The smallest mark; see stall_word in kernels/waiting.h."""
_PLACES = {1: "at a barrier", 2: "for operands of a product", 3: "for logits or a sample"}


@dataclass(frozen=True)
class Stall:
    """Where the first thread gave up."""

    place: str
    """What it waited for."""
    block: int
    """Of the grid, modulo 512."""
    step: int
    """Of the chunk, modulo 1024."""

    def __str__(self) -> str:
        """As a part of a message."""
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
