"""A pool of loaded models: each is loaded once, leased to any number of users, and closed after its last lease."""

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
"""Maximum time that `ModelPool.close` waits for its threads; one that hangs continues as a daemon thread."""

PoolState = Literal["ready", "draining", "closed"]


class ModelCacheFullError(OverloadedError):
    """A load is refused because it would exceed the capacity."""


@dataclass(eq=False)
class LoadInProgress(Generic[Key, Model]):
    """A load in progress; guarded by the pool's lock."""

    bytes: int
    """Reserved memory."""
    begun: float
    """Start, in seconds of the pool's clock."""
    in_background: bool
    """Whether it was started without a request."""
    waiting: int = 0
    """Requests that wait for it."""
    pooled: PooledModel[Key, Model] | None = None
    """The result; set when the waiting requests are counted as its users."""
    done: Future[PooledModel[Key, Model]] = field(default_factory=Future)
    """The result or the error; set without the lock."""


@dataclass
class PoolCounters:
    """Counters of a pool, guarded by its lock; `ModelCacheStatistics` describes them."""

    loads: int = 0
    preheated: int = 0
    failed_loads: int = 0
    evictions: int = 0
    over_capacity: int = 0
    refused: int = 0
    load_seconds: Durations = field(default_factory=Durations)


class ModelPool(Generic[Key, Model]):
    """Loaded models by key, guarded by one lock. Thread-safe.

    Models are loaded and closed in separate threads, without the lock. So a request waits for a load that hangs only
    until its time limit, and no request spends time on closing a model or on freeing memory.

    Attributes and methods whose description ends with "with the lock" are used inside ``with pool.changing()``.
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
            name: of the pool, for messages.
            load_seconds: maximum time that requests wait for a load, from its start.
            capacity: maximum bytes of all models.
            refuses: whether to refuse a request if the models in use leave no room for it.
            clock: seconds.
        """
        self.state: PoolState = "ready"
        self.capacity = capacity
        self.counters = PoolCounters()
        self.models: OrderedDict[Key, PooledModel[Key, Model]] = OrderedDict()
        """Models that can be leased, the least recently used first; with the lock."""
        self.loads: dict[Key, LoadInProgress[Key, Model]] = {}
        """Loads that new requests join. A load removed from here serves only its waiting requests; with the lock."""
        self.closing: list[PooledModel[Key, Model]] = []
        """Models to close in the background when the lock is released; with the lock."""
        self.on_unlock: list[Callable[[], object]] = []
        """Calls to make when the lock is released; with the lock."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after a load ended or a model was released, with the lock held."""
        self._name = name
        self._refuses = refuses
        self._load_seconds = load_seconds
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._retired: list[PooledModel[Key, Model]] = []  # in use, but cannot be leased again
        # A lease may be garbage collected in a thread that holds the lock, so its finalizer only appends to this.
        self._collected: deque[PooledModel[Key, Model]] = deque()
        self._requests = 0
        self._starting = threading.Lock()
        self._threads: set[threading.Thread] = set()  # that `close` waits for; guarded by `_starting`

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds the lock; after it is released, closes the models in `closing` and makes the calls in `on_unlock`."""
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
        """Runs ``work`` in a daemon thread, or here if none can be started; `close` waits for it if ``joined``."""

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
        except RuntimeError:  # interpreter shutdown, or too many threads
            work()

    def held(self) -> list[PooledModel[Key, Model]]:
        """All models in memory: first those that can be leased, then the retired ones; with the lock."""
        return [*self.models.values(), *self._retired]

    def idle(self) -> list[PooledModel[Key, Model]]:
        """Models without users, the least recently used first; with the lock."""
        return [pooled for pooled in self.models.values() if not pooled.users]

    def bytes(self, *, in_use: bool = False) -> int:
        """Memory of all models, or of the models in use only; with the lock."""
        return sum(pooled.bytes for pooled in self.held() if pooled.users or not in_use)

    def lease(self, pooled: PooledModel[Key, Model]) -> Lease[Key, Model]:
        """Leases a model in `models`; with the lock."""
        pooled.users += 1
        return Lease(pooled, self.release, self._collected.append)

    def retire(self, pooled: PooledModel[Key, Model]) -> None:
        """Removes a model from `models`; it is closed after its last lease. With the lock."""
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
        """Starts a load in a new thread, which first closes the evicted models; with the lock."""
        for pooled in evicted:
            del self.models[pooled.key]
        self.counters.evictions += len(evicted)
        self.loads[key] = progress = LoadInProgress[Key, Model](need, self._clock(), in_background)
        run = partial(self._run, key, progress, load, evicted)
        self.on_unlock.append(partial(self.start, f"load of {key}", run, joined=in_background))
        return progress

    @contextmanager
    def request(self) -> Iterator[None]:
        """Context of a request, inside which `load` is called; `drain` waits for its end.

        Raises:
            ClosedError: the pool is closed or draining.
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
            hint = "it accepts no new requests" if self.state == "draining" else "make another one"
            raise ClosedError(f"{self._name} is {self.state}; {hint}")

    def load(self, key: Key, path: Path, need: int, load: Callable[[], PooledModel[Key, Model]]) -> Lease[Key, Model]:
        """Leases a model; loads it, or waits for a load in progress, if it is not in memory.

        Args:
            key: of the model.
            path: of the model, for messages.
            need: estimated bytes.
            load: loads the model, in another thread; all waiting requests get its error.

        Raises:
            ModelCacheFullError: there is no room, and the pool refuses loads beyond its capacity.
            ClosedError: the pool is closed.
            LoadTimeoutError: the load takes longer than ``load_seconds``.
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
        except BaseException as interruption:  # timeout, or a signal such as Ctrl-C
            with self.changing():
                progress.waiting -= 1
                if progress.pooled is not None:
                    self._release(progress.pooled)
            if isinstance(interruption, FutureTimeoutError):
                raise LoadTimeoutError(
                    f"{path} was not loaded within {self._load_seconds:g} s; the load continues, and its result is kept"
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
        """Refuses new requests, and waits until no model is in use; returns whether that was within ``seconds``."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            with self.changing():
                if self.state == "ready":
                    self.state = "draining"
                idle = not self._requests and not any(pooled.users for pooled in self.held())
                left = until - time.monotonic()
                if not idle and left > 0:
                    self._changed.wait(min(left, 1.0))  # garbage collection of a lease does not notify
            if idle or left <= 0:
                return idle

    def close(self) -> None:
        """Closes all models, those in use after their last lease; waits `JOIN_SECONDS` at most for the threads."""
        with self.changing():
            self.state = "closed"
            for pooled in list(self.models.values()):
                self.retire(pooled)
        until = time.monotonic() + JOIN_SECONDS
        while True:
            with self._starting:
                running = self._threads - {threading.current_thread()}
            left = until - time.monotonic()
            if not running or left <= 0:
                break
            running.pop().join(left)
        for thread in running:
            logger.warning("%s: %s hangs and is not waited for", self._name, thread.name)

    def _run(
        self,
        key: Key,
        progress: LoadInProgress[Key, Model],
        load: Callable[[], PooledModel[Key, Model]],
        evicted: list[PooledModel[Key, Model]],
    ) -> None:
        """Main function of a load's thread."""
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
        """Adds a loaded model, with the waiting requests as its users, and evicts others; returns an error if full.

        A model that is not ``wanted`` (discarded, or the pool is closed) serves the waiting requests only.
        """
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
        logger.warning("%s exceeds the capacity: all other models are in use", pooled.path)
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
        """Models without users to evict so that ``need`` bytes fit, the least recently used first."""
        chosen = []
        excess = self.bytes() + self._reserved() + need - self.capacity
        for pooled in self.idle():
            if excess <= 0:
                break
            chosen.append(pooled)
            excess -= pooled.bytes
        return chosen

    def _reserved(self) -> int:
        """Bytes of the loads that requests wait for; background loads reserve nothing."""
        return sum(progress.bytes for progress in self.loads.values() if progress.waiting)

    def _full(self, path: Path, need: int, taken: int) -> ModelCacheFullError:
        return ModelCacheFullError(
            f"{path} takes about {need / 1e6:.0f} MB; of the cache's {self.capacity / 1e6:.0f} MB, models in use or "
            f"being loaded take {taken / 1e6:.0f} MB. Close leases that are no longer needed, or raise capacity_bytes"
        )
