"""What copying memory reaches on the CPU."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

_SMALLEST, _LARGEST = 128 << 20, 2 << 30
_CACHES = 4
"""How many times the last level's cache is copied, so that next to nothing of a copy finds its bytes there."""
_TIMES = 3
_CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")


class MemoryCopy:
    """A copy from one large array to another, a part for each thread."""

    def __init__(self, threads: int, size: int | None = None) -> None:
        """Makes the arrays, of ``size`` bytes each; by default of several times the largest cache."""
        self.size = size or min(_LARGEST, max(_SMALLEST, _CACHES * largest_cache()))
        """Bytes of each of the two."""
        self._source: NDArray[np.uint8] = np.ones(self.size, np.uint8)
        self._target: NDArray[np.uint8] = np.ones(self.size, np.uint8)  # touched, so that its pages are there
        self._parts = [slice(self.size * i // threads, self.size * (i + 1) // threads) for i in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def bytes_per_second(self) -> float:
        """Bytes read and bytes written, both counted: the median of a few copies."""
        elapsed = []
        for _ in range(_TIMES):
            started = time.perf_counter()
            for _ in self._pool.map(self._copy, self._parts):
                pass
            elapsed.append(time.perf_counter() - started)
        return 2 * self.size / median(elapsed)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _copy(self, part: slice) -> None:
        np.copyto(self._target[part], self._source[part])  # lets other threads run meanwhile


def largest_cache() -> int:
    """Bytes of the largest cache that a core reaches; 0 where the system does not tell."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [0]
    for file in _CACHE_FOLDER.glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes)
