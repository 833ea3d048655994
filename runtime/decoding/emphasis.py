"""De-emphasis, for voices that predict a pre-emphasised waveform."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BLOCK = 65536
"""Samples that are Python floats at a time: an hour's would take gigabytes."""


class DeEmphasis:
    """x[n] = y[n] + a x[n-1]: the inverse of pre-emphasis, carried from chunk to chunk with equal bits."""

    def __init__(self, coefficient: float) -> None:
        """Starts from silence; a coefficient of 0 changes nothing."""
        self._coefficient = coefficient
        self._last = 0.0

    def __call__(self, emphasised: Array) -> Array:
        if not self._coefficient or not emphasised.size:
            return emphasised
        coefficient = self._coefficient
        waveform = np.empty(emphasised.size)
        # A recursion in Python floats: numpy has none, and SciPy would be a dependency for one line.
        for start in range(0, emphasised.size, _BLOCK):
            block = emphasised[start : start + _BLOCK].tolist()
            chain = accumulate(block, lambda before, y: y + coefficient * before, initial=self._last)
            waveform[start : start + len(block)] = np.fromiter(chain, np.float64, len(block) + 1)[1:]
            self._last = float(waveform[start + len(block) - 1])
        return waveform
