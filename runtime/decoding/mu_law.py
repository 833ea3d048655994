"""mu-law companding: fine steps for quiet amplitudes, coarse ones for loud (ITU-T G.711, the continuous formula)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def compress(amplitude: Array, mu: int) -> Array:
    """Amplitudes in [-1, 1] to companded values in [-1, 1]."""
    companded: Array = np.sign(amplitude) * np.log1p(mu * np.abs(amplitude)) / np.log1p(mu)
    return companded


def expand(companded: Array, mu: int) -> Array:
    """The inverse of `compress`."""
    return np.sign(companded) / mu * ((1.0 + mu) ** np.abs(companded) - 1.0)
