"""Loads models in the background: those that `ModelCache.preheat` names, then those with the most access heat.

Access heat is the number of recent requests for a model; a request counts half after a half-life.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wavernn_trt.runtime.models.lease import PooledModel
from wavernn_trt.runtime.models.pool import LoadInProgress, ModelPool
from wavernn_trt.runtime.models.source import ModelKey
from wavernn_trt.runtime.vocoder import Vocoder

Pooled = PooledModel[ModelKey, Vocoder]
MAX_CONCURRENCY = 4
"""Loads in the background at a time, at most: each reads a model from disk and takes a core."""
_EVICTION_RATIO = 2.0
"""A preload may evict only models that are requested half as often: with less, two models that are requested alike
would take turns."""
_CONSIDERED = 4
"""Of the most requested models that are not in memory, how many are tried for room."""
_COUNTED = 256
"""Models whose requests are counted."""


@dataclass
class _Accesses:
    path: Path
    bytes: int
    count: float
    at: float


class AccessHeat:
    """Exponentially decaying request counts of models; the caller holds the cache's lock."""

    def __init__(self, half_life: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts without requests.

        Args:
            half_life: seconds.
            clock: seconds.
        """
        self._half_life = half_life
        self._clock = clock
        self._accesses: dict[ModelKey, _Accesses] = {}

    def add(self, key: ModelKey, path: Path, size: int) -> None:
        """Counts a request.

        Args:
            key: with the version that was found.
            path: the model's directory.
            size: bytes that it takes, as far as known.
        """
        now = self._clock()
        last = self._accesses.pop(key, None)
        self._accesses[key] = _Accesses(path, size, 1.0 + (0.0 if last is None else self._decayed(last, now)), now)
        if len(self._accesses) > _COUNTED:
            counts = self.counts()
            del self._accesses[min(counts, key=counts.__getitem__)]

    def resize(self, key: ModelKey, size: int) -> None:
        """Corrects the bytes that a model takes."""
        if key in self._accesses:
            self._accesses[key].bytes = size

    def forget(self, key: ModelKey) -> None:
        """Sets a model's count to zero."""
        self._accesses.pop(key, None)

    def counts(self) -> dict[ModelKey, float]:
        """Requests for each model, decayed."""
        now = self._clock()
        return {key: self._decayed(accesses, now) for key, accesses in self._accesses.items()}

    def place(self, key: ModelKey) -> tuple[Path, int]:
        """A model's directory and the bytes that it takes, as of its last request."""
        accesses = self._accesses[key]
        return accesses.path, accesses.bytes

    def _decayed(self, accesses: _Accesses, now: float) -> float:
        return float(accesses.count * 0.5 ** ((now - accesses.at) / self._half_life))


@dataclass(eq=False)
class Preload:
    """A model that was asked for with `ModelCache.preheat`."""

    key: ModelKey
    path: Path
    bytes: int
    done: Future[bool] = field(default_factory=Future)
    """Whether it is in memory."""


class Preheating:
    """Begins loads in the background while no request waits for a load, and there is room.

    A model loaded in the background is the last to get room. A request for it joins its load. The caller of every
    method holds the pool's lock.
    """

    def __init__(
        self,
        pool: ModelPool[ModelKey, Vocoder],
        heat: AccessHeat,
        load: Callable[[ModelKey, Path], Pooled],
        concurrency: int,
    ) -> None:
        """Begins when there is something to load.

        Args:
            pool: where models go.
            heat: how often each is requested.
            load: loads one.
            concurrency: loads at the same time; 0 for none.
        """
        self._pool = pool
        self._heat = heat
        self._load = load
        self._concurrency = concurrency
        self._queue: deque[Preload] = deque()

    def add(self, preloads: list[Preload]) -> None:
        """Queues models."""
        self._queue += preloads
        self.advance()

    def cancel(self) -> None:
        """Drops the queue."""
        for preload in self._queue:
            self._pool.on_unlock.append(preload.done.cancel)
        self._queue.clear()

    def advance(self) -> None:
        """Begins as many loads as may be; called after each change."""
        pool = self._pool
        while (
            pool.state == "ready"
            and not any(progress.waiting for progress in pool.loads.values())
            and sum(progress.in_background for progress in pool.loads.values()) < self._concurrency
            and self._begin_next()
        ):
            pass

    def _begin_next(self) -> bool:
        """Takes the next model of the queue, or the most requested; returns whether there may be another."""
        pool = self._pool
        if self._queue:
            preload = self._queue.popleft()
            if not preload.done.set_running_or_notify_cancel():
                return True
            if preload.key in pool.models:
                pool.on_unlock.append(partial(preload.done.set_result, True))
            elif (progress := pool.loads.get(preload.key)) is not None:
                progress.done.add_done_callback(partial(self._finish, preload))
            elif (evicted := self._room(preload.key, preload.bytes)) is None:
                pool.on_unlock.append(partial(preload.done.set_result, False))
            else:
                progress = self._begin(preload.key, preload.path, preload.bytes, evicted)
                progress.done.add_done_callback(partial(self._finish, preload))
            return True
        counts = self._heat.counts()
        absent = [key for key in counts if key not in pool.models and key not in pool.loads]
        for key in heapq.nlargest(_CONSIDERED, absent, key=counts.__getitem__):
            path, need = self._heat.place(key)
            if (evicted := self._room(key, need)) is not None:
                self._begin(key, path, need, evicted)
                return True
        return False

    def _begin(self, key: ModelKey, path: Path, need: int, evicted: list[Pooled]) -> LoadInProgress[ModelKey, Vocoder]:
        return self._pool.begin(key, need, partial(self._load, key, path), evicted, in_background=True)

    def _finish(self, preload: Preload, loaded: Future[Pooled]) -> None:
        """Called without the lock, by the thread of the load."""
        if (error := loaded.exception()) is not None:
            preload.done.set_exception(error)
            return
        with self._pool.changing():
            there = preload.key in self._pool.models
        preload.done.set_result(there)

    def _room(self, key: ModelKey, need: int) -> list[Pooled] | None:
        """Models to evict for another, the least requested first; ``None`` if too much that is requested would go."""
        pool, counts = self._pool, self._heat.counts()
        excess = pool.bytes() + sum(progress.bytes for progress in pool.loads.values()) + need - pool.capacity
        chosen: list[Pooled] = []
        for pooled in sorted(pool.idle(), key=lambda one: counts.get(one.key, 0.0)):
            if excess <= 0 or counts.get(pooled.key, 0.0) >= counts.get(key, 0.0) / _EVICTION_RATIO:
                break
            chosen.append(pooled)
            excess -= pooled.bytes
        return None if excess > 0 else chosen
