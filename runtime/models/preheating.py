"""Background loads of models: first those in the queue of `ModelCache.preheat`, then those with the most access heat.

Access heat is an exponentially decaying count of the requests for a model.
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
"""Maximum of simultaneous background loads: each reads a model from disk and uses a core."""
_EVICTION_RATIO = 2.0
"""A background load may evict only models that are requested half as often. Otherwise two models with similar request
rates would evict each other repeatedly."""
_CONSIDERED = 4
"""Number of the most requested absent models for which room is searched."""
_COUNTED = 256
"""Maximum number of models whose requests are counted."""


@dataclass
class _Accesses:
    path: Path
    bytes: int
    count: float
    at: float


class AccessHeat:
    """Exponentially decaying request counts of models; used with the cache's lock held."""

    def __init__(self, half_life: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts without requests; ``half_life`` and ``clock`` are in seconds."""
        self._half_life = half_life
        self._clock = clock
        self._accesses: dict[ModelKey, _Accesses] = {}

    def add(self, key: ModelKey, path: Path, size: int) -> None:
        """Counts a request for a model in the directory ``path``, with an estimated ``size`` in bytes."""
        now = self._clock()
        last = self._accesses.pop(key, None)
        self._accesses[key] = _Accesses(path, size, 1.0 + (0.0 if last is None else self._decayed(last, now)), now)
        if len(self._accesses) > _COUNTED:
            counts = self.counts()
            del self._accesses[min(counts, key=counts.__getitem__)]

    def resize(self, key: ModelKey, size: int) -> None:
        """Sets the bytes of a model, if it is counted."""
        if key in self._accesses:
            self._accesses[key].bytes = size

    def forget(self, key: ModelKey) -> None:
        """Sets a model's count to zero."""
        self._accesses.pop(key, None)

    def counts(self) -> dict[ModelKey, float]:
        """Decayed number of requests of each model."""
        now = self._clock()
        return {key: self._decayed(accesses, now) for key, accesses in self._accesses.items()}

    def place(self, key: ModelKey) -> tuple[Path, int]:
        """Directory and bytes of a model, as of its last request."""
        accesses = self._accesses[key]
        return accesses.path, accesses.bytes

    def _decayed(self, accesses: _Accesses, now: float) -> float:
        return float(accesses.count * 0.5 ** ((now - accesses.at) / self._half_life))


@dataclass(eq=False)
class Preload:
    """A model in the queue of `ModelCache.preheat`."""

    key: ModelKey
    path: Path
    bytes: int
    done: Future[bool] = field(default_factory=Future)
    """Whether the model is in memory."""


@dataclass(eq=False)
class Preheating:
    """Starts background loads while no request waits for a load and there is room.

    A model loaded in the background gets room last. A request for it waits for the same load. All methods are called
    with the pool's lock held.
    """

    pool: ModelPool[ModelKey, Vocoder]
    heat: AccessHeat
    load: Callable[[ModelKey, Path], Pooled]
    """Loads a model."""
    concurrency: int
    """Maximum of simultaneous loads; 0 disables background loads."""
    queue: deque[Preload] = field(default_factory=deque)

    def add(self, preloads: list[Preload]) -> None:
        """Adds models to the queue."""
        self.queue += preloads
        self.advance()

    def cancel(self) -> None:
        """Empties the queue and cancels its futures."""
        self.pool.on_unlock += [preload.done.cancel for preload in self.queue]
        self.queue.clear()

    def advance(self) -> None:
        """Starts as many loads as permitted; called after each change of the pool."""
        pool = self.pool
        while (
            pool.state == "ready"
            and not any(progress.waiting for progress in pool.loads.values())
            and sum(progress.in_background for progress in pool.loads.values()) < self.concurrency
            and (self._start_queued() if self.queue else self._start_most_requested())
        ):
            pass

    def _start_queued(self) -> bool:
        """Handles the first model of the queue; always True, because the next may be handled as well."""
        pool, preload = self.pool, self.queue.popleft()
        if not preload.done.set_running_or_notify_cancel():
            return True
        progress = pool.loads.get(preload.key)
        if preload.key in pool.models:
            pool.on_unlock.append(partial(preload.done.set_result, True))
        elif progress is None and (progress := self._begin(preload.key, preload.path, preload.bytes)) is None:
            pool.on_unlock.append(partial(preload.done.set_result, False))
        else:
            progress.done.add_done_callback(partial(self._finish, preload))
        return True

    def _start_most_requested(self) -> bool:
        """Starts loading the most requested absent model that there is room for; returns whether there is one."""
        counts = self.heat.counts()
        absent = [key for key in counts if key not in self.pool.models and key not in self.pool.loads]
        most = heapq.nlargest(_CONSIDERED, absent, key=counts.__getitem__)
        return any(self._begin(key, *self.heat.place(key)) is not None for key in most)

    def _begin(self, key: ModelKey, path: Path, need: int) -> LoadInProgress[ModelKey, Vocoder] | None:
        """Starts a load, if there is room for ``need`` bytes."""
        evicted = self._room(key, need)
        if evicted is None:
            return None
        return self.pool.begin(key, need, partial(self.load, key, path), evicted, in_background=True)

    def _finish(self, preload: Preload, loaded: Future[Pooled]) -> None:
        """Sets the result of a preload. Called without the lock, in the thread of the load."""
        if (error := loaded.exception()) is not None:
            preload.done.set_exception(error)
            return
        with self.pool.changing():
            in_memory = preload.key in self.pool.models
        preload.done.set_result(in_memory)

    def _room(self, key: ModelKey, need: int) -> list[Pooled] | None:
        """Models to evict, the least requested first; ``None`` if models that are requested too often had to go."""
        pool, counts = self.pool, self.heat.counts()
        excess = pool.bytes() + sum(progress.bytes for progress in pool.loads.values()) + need - pool.capacity
        chosen: list[Pooled] = []
        for pooled in sorted(pool.idle(), key=lambda idle: counts.get(idle.key, 0.0)):
            if excess <= 0 or counts.get(pooled.key, 0.0) >= counts.get(key, 0.0) / _EVICTION_RATIO:
                break
            chosen.append(pooled)
            excess -= pooled.bytes
        return None if excess > 0 else chosen
