"""Which models are asked for most, where what is long past counts little."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.runtime.models.shelf import ModelKey

_MOST = 256
"""Models that are kept count of."""


@dataclass
class _Asked:
    path: Path
    bytes: int
    count: float
    at: float


class Demand:
    """Counts requests for each model; a count halves in a given time. Whoever calls holds the cache's lock."""

    def __init__(self, half_life: float) -> None:
        """Starts with no requests.

        Args:
            half_life: seconds.
        """
        self._half_life = half_life
        self._asked: dict[ModelKey, _Asked] = {}

    def add(self, key: ModelKey, path: Path, size: int, now: float | None = None) -> None:
        """Counts a request.

        Args:
            key: with the version that was found.
            path: the model's directory.
            size: bytes that it takes.
            now: seconds on the clock of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        asked = self._asked.pop(key, None)
        count = 0.0 if asked is None else self._decayed(asked, now)
        self._asked[key] = _Asked(path, size, count + 1.0, now)
        if len(self._asked) > _MOST:
            counts = self.counts(now)
            del self._asked[min(counts, key=counts.__getitem__)]

    def resize(self, key: ModelKey, size: int) -> None:
        """Learns how many bytes a model really takes."""
        if key in self._asked:
            self._asked[key].bytes = size

    def forget(self, key: ModelKey) -> None:
        """Takes a model's count back."""
        self._asked.pop(key, None)

    def counts(self, now: float | None = None) -> dict[ModelKey, float]:
        """Each model's, decayed."""
        now = time.monotonic() if now is None else now
        return {key: self._decayed(asked, now) for key, asked in self._asked.items()}

    def place(self, key: ModelKey) -> tuple[Path, int]:
        """A model's directory and the bytes that it takes, as of its last request."""
        asked = self._asked[key]
        return asked.path, asked.bytes

    def _decayed(self, asked: _Asked, now: float) -> float:
        return float(asked.count * 0.5 ** ((now - asked.at) / self._half_life))
