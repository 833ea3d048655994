"""A histogram of magnitudes whose counts do not depend on the order and grouping of the values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.calibration.errors import CalibrationError

BINS = 2**14
"""Bins of a histogram. At least half lie below the largest magnitude, so that a step of int8 spans 64 or more."""
_BITS = 14
LOWEST_EXPONENT = -32
"""Exponent of the smallest range; magnitudes that all lie below it count as zero."""


@dataclass
class Histogram:
    """Counts of magnitudes |x| in `BINS` equal bins over [0, 2**exponent).

    The range is the smallest that contains the largest magnitude. When a larger value arrives, the range doubles and
    neighbouring bins are added in pairs. Bins of a range are unions of those of a smaller range, so the counts equal
    those of counting all values at once.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """[BINS]."""
    exponent: int = LOWEST_EXPONENT
    largest: float = 0.0
    """The exact largest magnitude."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Histogram:
        """Returns the histogram of an array; see `add`."""
        histogram = cls()
        histogram.add(values)
        return histogram

    @property
    def values(self) -> int:
        """The number of counted values."""
        return int(self.counts.sum())

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, [BINS]."""
        return np.asarray((np.arange(BINS) + 0.5) * self.width)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return float(2.0 ** (self.exponent - _BITS))

    def add(self, values: NDArray[Any]) -> None:
        """Counts values.

        Args:
            values: of any shape; converted to float32.

        Raises:
            CalibrationError: NaN or infinity among them; none is counted then.
        """
        if not values.size:
            return
        magnitudes = np.abs(np.asarray(values, np.float32)).ravel()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise CalibrationError("found NaN or infinite values, expected finite ones")
        self._extend(largest)
        # The factor is a power of two, so this is exact.
        indices = (magnitudes * np.float32(1 / self.width)).astype(np.int64)
        self.counts += np.bincount(indices, minlength=BINS)

    def __iadd__(self, other: Histogram) -> Histogram:
        self._extend(other.largest)
        self.counts += _merged(other.counts, self.exponent - other.exponent)
        return self

    def _extend(self, magnitude: float) -> None:
        self.largest = max(self.largest, magnitude)
        needed = int(np.frexp(magnitude)[1]) if magnitude else LOWEST_EXPONENT  # magnitude < 2**needed
        exponent = max(self.exponent, needed)
        self.counts = _merged(self.counts, exponent - self.exponent)
        self.exponent = exponent


def _merged(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Returns the counts for a range that is 2**doublings times as wide."""
    if not doublings:
        return counts
    merged = counts.reshape(-1, 2 ** min(doublings, _BITS)).sum(axis=1)
    wider = np.zeros(BINS, np.int64)
    wider[: len(merged)] = merged
    return wider
