"""A pool of loaded models: each is loaded once, leased to any number of users, and closed after its last lease.

`wavernn_trt.runtime.models.cache` and `wavernn_trt.runtime.models.standby` are both built on it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, Literal

from wavernn_trt.runtime.errors import ClosedError, LoadTimeoutError, OverloadedError
from wavernn_trt.runtime.models.lease import Key, Lease, Model, PooledModel, close_models
from wavernn_trt.runtime.scheduling.statistics import Durations

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0
"""How long `ModelPool.close` waits for loads and closings; one that hangs is left to its daemon thread."""

PoolState = Literal["ready", "draining", "closed"]


class ModelCacheFullError(OverloadedError):
    """There is no room for a model, and the pool refuses loads beyond its capacity."""


@dataclass(eq=False)
class LoadInProgress(Generic[Key, Model]):
    """A model that is being loaded; the pool's lock guards it."""

    bytes: int
    """Memory that is reserved for it."""
    begun: float
    """Seconds on the pool's clock."""
    in_background: bool
    """Whether it was begun without a request."""
    waiting: int = 0
    """Requests that wait for it."""
    pooled: PooledModel[Key, Model] | None = None
    """The result, as soon as it counts the waiting requests as its users."""
    done: Future[PooledModel[Key, Model]] = field(default_factory=Future)
    """The same result, or the error; set without the lock."""


@dataclass
class PoolCounters:
    """Counts since the pool was made; the pool's lock guards them. See `ModelCacheStatistics`."""

    loads: int = 0
    preheated: int = 0
    failed_loads: int = 0
    evictions: int = 0
    over_capacity: int = 0
    refused: int = 0
    load_seconds: Durations = field(default_factory=Durations)


class ModelPool(Generic[Key, Model]):
    """Loaded models by key, under one lock; any number of threads may use it.

    Models are loaded and closed in threads of their own, without the lock. So a load that hangs keeps a request no
    longer than its time limit, and no request spends time on closing a model or on giving back its memory.

    Attributes are read, and methods called, inside ``with pool.changing()`` where they say so.
    """

    def __init__(
        self,
        name: str,
        *,
        load_seconds: float,
        capacity: float = math.inf,
        refuses: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts empty.

        Args:
            name: of the pool, in messages.
            load_seconds: how long requests wait for a load, from its begin.
            capacity: bytes that models may take.
            refuses: whether a request for which there is no room, because models are in use, is refused.
            clock: seconds.
        """
        self.state: PoolState = "ready"
        self.capacity = capacity
        self.counters = PoolCounters()
        self.models: OrderedDict[Key, PooledModel[Key, Model]] = OrderedDict()
        """That can be leased, the least recently used first; with the lock."""
        self.loads: dict[Key, LoadInProgress[Key, Model]] = {}
        """With the lock. A load without an entry serves only the requests that wait for it."""
        self.closing: list[PooledModel[Key, Model]] = []
        """To be closed, in the background, when the lock is released; with the lock."""
        self.on_unlock: list[Callable[[], object]] = []
        """Calls to make when the lock is released; with the lock."""
        self.on_change: Callable[[], None] = lambda: None
        """Is called with the lock held after a load ended or a model was released."""
        self._name = name
        self._refuses = refuses
        self._load_seconds = load_seconds
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._retired: list[PooledModel[Key, Model]] = []  # can be leased no more, but are in use
        # Leases are garbage collected at any moment, also in a thread that holds the lock: they are only noted.
        self._collected: deque[PooledModel[Key, Model]] = deque()
        self._requests = 0
        self._starting = threading.Lock()
        self._threads: set[threading.Thread] = set()  # to wait for; guarded by `_starting`

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds the lock; when it is released, starts what is due (`closing`, `on_unlock`)."""
        calls: list[Callable[[], object]] = []
        try:
            with self._changed:
                while self._collected:
                    self._release(self._collected.popleft())
                try:
                    yield
                finally:
                    if self.closing:
                        calls.append(partial(self.start, "closing", partial(close_models, self.closing)))
                        self.closing = []
                    calls += self.on_unlock
                    self.on_unlock = []
                    self._changed.notify_all()
        finally:
            for call in calls:
                call()

    def start(self, what: str, work: Callable[[], None], *, joined: bool = True) -> None:
        """Runs work in a daemon thread, which `close` waits for if ``joined``; here, if no thread can be started."""

        def run() -> None:
            try:
                work()
            finally:
                with self._starting:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"wavernn-trt {what}", daemon=True)
        try:
            with self._starting:
                thread.start()
                if joined:
                    self._threads.add(thread)
        except RuntimeError:  # the interpreter is ending, or the system has too many threads
            work()

    def held(self) -> list[PooledModel[Key, Model]]:
        """All models in memory, those that can be leased first; with the lock."""
        return [*self.models.values(), *self._retired]

    def idle(self) -> list[PooledModel[Key, Model]]:
        """Models without users, the least recently used first; with the lock."""
        return [pooled for pooled in self.models.values() if not pooled.users]

    def bytes(self, *, in_use: bool = False) -> int:
        """Memory of all models, or of those in use; with the lock."""
        return sum(pooled.bytes for pooled in self.held() if pooled.users or not in_use)

    def lease(self, pooled: PooledModel[Key, Model]) -> Lease[Key, Model]:
        """A lease of a model in `models`; with the lock."""
        pooled.users += 1
        return Lease(pooled, self.release, self._collected.append)

    def retire(self, pooled: PooledModel[Key, Model]) -> None:
        """Lets a model be leased no more; it is closed after its last lease. With the lock."""
        if self.models.get(pooled.key) is pooled:
            del self.models[pooled.key]
            (self._retired if pooled.users else self.closing).append(pooled)

    def begin(
        self,
        key: Key,
        need: int,
        load: Callable[[], PooledModel[Key, Model]],
        evicted: list[PooledModel[Key, Model]],
        *,
        in_background: bool,
    ) -> LoadInProgress[Key, Model]:
        """Begins a load in a thread of its own, which first closes models to make room; with the lock."""
        for pooled in evicted:
            del self.models[pooled.key]
        self.counters.evictions += len(evicted)
        self.loads[key] = progress = LoadInProgress[Key, Model](need, self._clock(), in_background)
        run = partial(self._run, key, progress, load, evicted)
        self.on_unlock.append(partial(self.start, f"load of {key}", run, joined=in_background))
        return progress

    @contextmanager
    def request(self) -> Iterator[None]:
        """Admits a request, which may then call `load`; `drain` waits for its end.

        Raises:
            ClosedError: the pool is closed, or is draining.
        """
        with self.changing():
            self.require_ready()
            self._requests += 1
        try:
            yield
        finally:
            with self.changing():
                self._requests -= 1

    def require_ready(self) -> None:
        """Raises `ClosedError` unless new requests are accepted."""
        if self.state != "ready":
            way = "takes no new requests" if self.state == "draining" else "make another one"
            raise ClosedError(f"{self._name} is {self.state}; {way}")

    def load(self, key: Key, path: Path, need: int, load: Callable[[], PooledModel[Key, Model]]) -> Lease[Key, Model]:
        """A lease of a model that is in memory, or is loaded for this request or already for another.

        Args:
            key: of the model.
            path: names it in messages.
            need: bytes that it will take, as far as known.
            load: loads it, in another thread; all waiting requests get its error.

        Raises:
            ModelCacheFullError: there is no room, and the pool refuses then.
            ClosedError: the pool is closed.
            LoadTimeoutError: the load has been under way for ``load_seconds``.
        """
        with self.changing():
            if self.state == "closed":
                self.require_ready()
            if key in self.models:
                return self.lease(self.models[key])
            progress = self.loads.get(key)
            if progress is None:
                taken = self.bytes(in_use=True) + self._reserved()
                if self._refuses and taken + need > self.capacity:
                    self.counters.refused += 1
                    raise self._full(path, need, taken)
                progress = self.begin(key, need, load, self._excess(need), in_background=False)
            progress.waiting += 1
            left = progress.begun + self._load_seconds - self._clock()
        try:
            error = progress.done.exception(min(max(left, 0.0), threading.TIMEOUT_MAX))
        except BaseException as interruption:  # the time is over, or the wait was interrupted
            with self.changing():
                progress.waiting -= 1
                if progress.pooled is not None:
                    self._release(progress.pooled)
            if isinstance(interruption, FutureTimeoutError):
                raise LoadTimeoutError(
                    f"{path} was not loaded within {self._load_seconds:g} s; the load goes on, and is used when it ends"
                ) from None
            raise
        if error is not None:
            raise error
        return Lease(progress.done.result(), self.release, self._collected.append)

    def release(self, pooled: PooledModel[Key, Model]) -> None:
        """Ends one use of a model."""
        with self.changing():
            self._release(pooled)

    def drain(self, seconds: float | None = None) -> bool:
        """Accepts no new requests; returns whether no model is in use any more, after so many seconds at most."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            with self.changing():
                if self.state == "ready":
                    self.state = "draining"
                idle = not self._requests and not any(pooled.users for pooled in self.held())
                left = until - time.monotonic()
                if not idle and left > 0:
                    self._changed.wait(min(left, 1.0))  # a lease that is garbage collected does not notify
            if idle or left <= 0:
                return idle

    def close(self) -> None:
        """Closes models, those in use or waited for after their last lease; waits for the others' threads.

        It waits for `JOIN_SECONDS` at most.
        """
        with self.changing():
            self.state = "closed"
            for pooled in list(self.models.values()):
                self.retire(pooled)
        until = time.monotonic() + JOIN_SECONDS
        while others := self._running():
            if time.monotonic() >= until:
                break
            others.pop().join(max(0.0, until - time.monotonic()))
        for thread in others:
            logger.warning("%s: %s does not end, and is left to itself", self._name, thread.name)

    def _running(self) -> set[threading.Thread]:
        with self._starting:
            return self._threads - {threading.current_thread()}

    def _run(
        self,
        key: Key,
        progress: LoadInProgress[Key, Model],
        load: Callable[[], PooledModel[Key, Model]],
        evicted: list[PooledModel[Key, Model]],
    ) -> None:
        """The thread of a load."""
        close_models(evicted)
        began = self._clock()
        error: BaseException | None = None
        try:
            pooled = load()
        except BaseException as failure:
            error = failure
        with self.changing():
            wanted = self.loads.get(key) is progress
            if wanted:
                del self.loads[key]
            if error is None:
                self.counters.loads += 1
                self.counters.preheated += not progress.waiting
                self.counters.load_seconds.add(self._clock() - began)
                error = self._put(pooled, progress, wanted=wanted and self.state != "closed")
            else:
                self.counters.failed_loads += 1
            self.on_change()
        if error is None:
            progress.done.set_result(pooled)
        else:
            progress.done.set_exception(error)

    def _put(
        self, pooled: PooledModel[Key, Model], progress: LoadInProgress[Key, Model], *, wanted: bool
    ) -> ModelCacheFullError | None:
        """Finds room for a model that was loaded, and counts the waiting requests as its users."""
        pooled.users = progress.waiting
        fits = self.bytes() + pooled.bytes + self._reserved() <= self.capacity
        if not wanted or not (fits or progress.waiting):
            (self._retired if progress.waiting else self.closing).append(pooled)
        else:
            self.models[pooled.key] = pooled
        if progress.waiting:
            progress.pooled = pooled
            self._evict()
        if not wanted or not progress.waiting or self.bytes() <= self.capacity:
            return None
        if self._refuses:
            taken = self.bytes() - pooled.bytes
            pooled.users, progress.pooled = 0, None
            self.retire(pooled)
            self.counters.refused += progress.waiting
            return self._full(pooled.path, pooled.bytes, taken)
        self.counters.over_capacity += 1
        logger.warning("%s is in memory beyond the capacity: all other models are in use", pooled.path)
        return None

    def _release(self, pooled: PooledModel[Key, Model]) -> None:
        pooled.users -= 1
        if self.models.get(pooled.key) is pooled:
            self.models.move_to_end(pooled.key)
        elif not pooled.users:
            self._retired.remove(pooled)
            self.closing.append(pooled)
        self._evict()
        self.on_change()

    def _evict(self) -> None:
        excess = self._excess()
        self.counters.evictions += len(excess)
        for pooled in excess:
            self.retire(pooled)

    def _excess(self, need: int = 0) -> list[PooledModel[Key, Model]]:
        """Models without users that have to leave for the others to fit, the least recently used first."""
        chosen = []
        excess = self.bytes() + self._reserved() + need - self.capacity
        for pooled in self.idle():
            if excess <= 0:
                break
            chosen.append(pooled)
            excess -= pooled.bytes
        return chosen

    def _reserved(self) -> int:
        """Bytes of loads that requests wait for; a load in the background gets what is left in the end."""
        return sum(progress.bytes for progress in self.loads.values() if progress.waiting)

    def _full(self, path: Path, need: int, taken: int) -> ModelCacheFullError:
        return ModelCacheFullError(
            f"{path} takes some {need / 1e6:.0f} MB; of the cache's {self.capacity / 1e6:.0f} MB, models in use "
            f"or being loaded take {taken / 1e6:.0f}. Close leases that are not needed any more, or make "
            "capacity_bytes larger"
        )
