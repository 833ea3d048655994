"""A table that grows at its end and is let go at its beginning, in memory that does not grow with it."""

from __future__ import annotations

import numpy as np

from wavernn_trt.runtime.conditioning.windows import FloatArray

_FEWEST_ROWS = 64


class SlidingRows:
    """Rows by their number from the first on. One thread at a time."""

    def __init__(self, columns: int) -> None:
        """Starts empty."""
        self._data = np.zeros((_FEWEST_ROWS, columns), np.float32)
        self._first = 0  # the number of the row that the array begins with
        self.released = 0
        """Rows before this one are gone."""
        self.stop = 0
        """One behind the last row that was written."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._data.nbytes

    def write(self, first: int, rows: FloatArray) -> None:
        """Writes rows [n, columns] from number ``first`` on, over others if they are there already."""
        stop = first + len(rows)
        if stop - self._first > len(self._data):
            self._make_room(stop)
        self._data[first - self._first : stop - self._first] = rows
        self.stop = max(self.stop, stop)

    def take(self, first: int, stop: int) -> FloatArray:
        """A copy of rows [stop - first, columns], all of them zero that were never written."""
        taken = np.zeros((stop - first, self._data.shape[1]), np.float32)
        begin, end = max(first, self.released), min(stop, self.stop)
        if begin < end:
            taken[begin - first : end - first] = self._data[begin - self._first : end - self._first]
        return taken

    def release(self, before: int) -> None:
        """Lets go of the rows before one; rows that are gone already stay so."""
        self.released = max(self.released, min(before, self.stop))

    def _make_room(self, stop: int) -> None:
        # Twice what is needed: a row is then copied once in the mean, however long this goes on.
        kept = self.take(self.released, self.stop)
        capacity = max(_FEWEST_ROWS, 2 * (stop - self.released))
        self._data = np.zeros((capacity, self._data.shape[1]), np.float32)
        self._data[: len(kept)] = kept
        self._first = self.released
