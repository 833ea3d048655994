"""Counting magnitudes: how often each was seen, exactly, whatever the order and the grouping of what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.calibration.errors import CalibrationError

BINS = 2**14
"""Of a histogram. At least half of them lie below the largest magnitude, so that a step of int8 spans 64 or more."""
_BITS = 14
LOWEST_EXPONENT = -32
"""Of the range of a histogram; magnitudes that all lie below are as good as zero."""


@dataclass
class Histogram:
    """Counts of magnitudes |x| in `BINS` equal bins over [0, 2**exponent).

    The range is the narrowest that holds the largest magnitude: where one is found beyond it, it doubles, and
    neighbouring bins are added up in pairs. Bins of one range are unions of those of a narrower, and so the counts are
    those that counting everything at once would give.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """[BINS]."""
    exponent: int = LOWEST_EXPONENT
    """Of the range."""
    largest: float = 0.0
    """The largest magnitude, exactly."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Histogram:
        """Of an array; see `add`."""
        histogram = cls()
        histogram.add(values)
        return histogram

    @property
    def values(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, [BINS]."""
        return np.asarray((np.arange(BINS) + 0.5) * self.width)

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(2.0 ** (self.exponent - _BITS))

    def add(self, values: NDArray[Any]) -> None:
        """Counts more.

        Args:
            values: of any shape; taken as float32.

        Raises:
            CalibrationError: NaN or infinity among them; nothing is counted then.
        """
        if not values.size:
            return
        magnitudes = np.abs(np.asarray(values, np.float32)).ravel()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise CalibrationError("found NaN or infinite values, expected finite ones")
        self._reach(largest)
        # By a power of two, and so without rounding.
        places = (magnitudes * np.float32(1 / self.width)).astype(np.int64)
        self.counts += np.bincount(places, minlength=BINS)

    def __iadd__(self, other: Histogram) -> Histogram:
        """Adds another's counts."""
        self._reach(other.largest)
        self.counts += _merged(other.counts, self.exponent - other.exponent)
        return self

    def _reach(self, magnitude: float) -> None:
        self.largest = max(self.largest, magnitude)
        holding = int(np.frexp(magnitude)[1]) if magnitude else LOWEST_EXPONENT  # magnitude < 2**holding
        exponent = max(self.exponent, holding)
        self.counts = _merged(self.counts, exponent - self.exponent)
        self.exponent = exponent


def _merged(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Counts as a range has them that is 2**doublings as wide."""
    if not doublings:
        return counts
    merged = counts.reshape(-1, 2 ** min(doublings, _BITS)).sum(axis=1)
    wider = np.zeros(BINS, np.int64)
    wider[: len(merged)] = merged
    return wider
