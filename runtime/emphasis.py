"""De-emphasis, for voices that predict a pre-emphasised waveform."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class DeEmphasis:
    """x[n] = y[n] + a x[n-1]: the inverse of pre-emphasis, carried from chunk to chunk with equal bits."""

    def __init__(self, coefficient: float) -> None:
        """Starts from silence; a coefficient of 0 changes nothing."""
        self._coefficient = coefficient
        self._last = 0.0

    def __call__(self, emphasised: Array) -> Array:
        """The next samples."""
        if not self._coefficient or not emphasised.size:
            return emphasised
        coefficient = self._coefficient
        # A recursion in Python floats: numpy has none, and SciPy would be a dependency for one line.
        chain = accumulate(emphasised.tolist(), lambda before, y: y + coefficient * before, initial=self._last)
        values = np.fromiter(chain, np.float64, emphasised.size + 1)[1:]
        self._last = float(values[-1])
        return values
