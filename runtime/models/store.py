"""What a model cache holds and what it is loading, under one lock."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.models.demand import Demand
from wavernn_trt.runtime.models.lease import Lease
from wavernn_trt.runtime.models.loading import AbandonedError, Flight, Load
from wavernn_trt.runtime.models.memory import give_back_memory
from wavernn_trt.runtime.models.shelf import PooledModel, ModelKey, ModelShelf
from wavernn_trt.runtime.models.statistics import CacheCounters

logger = logging.getLogger(__name__)


class ModelCacheFullError(VocoderError):
    """There is no room for a model, and the cache was told to refuse it then."""


class ModelStore:
    """Models in memory, models on their way there, and who waits for them.

    Vocoders are loaded and closed outside the lock: each takes its time, and nobody waits for one but who needs it.
    """

    def __init__(self, capacity: int, load: Load, *, refuses: bool, half_life: float) -> None:
        """Starts empty; see `ModelCache`."""
        self.lock = threading.Lock()
        self.shelf = ModelShelf(capacity)
        self.flights: dict[ModelKey, Flight] = {}
        self.demand = Demand(half_life)
        self.counters = CacheCounters()
        self.closed = False
        self.wake: Callable[[], None] = lambda: None
        """Is called with the lock held whenever there may be something to preheat."""
        self._load = load
        self._refuses = refuses
        # Leases become garbage at any moment, also in a thread that holds the lock: they only leave a note.
        self._forgotten: deque[PooledModel] = deque()

    @contextmanager
    def changing(self) -> Iterator[list[PooledModel]]:
        """Holds the lock; the models that the block puts into the list are closed behind it."""
        closing: list[PooledModel] = []
        try:
            with self.lock:
                while self._forgotten:
                    self._give_back(self._forgotten.popleft(), closing)
                yield closing
        finally:
            shut(closing)

    def require_open(self) -> None:
        """Refuses to go on once the cache is closed.

        Raises:
            VocoderError: it is.
        """
        if self.closed:
            raise VocoderError("the model cache is closed; make another one")

    def reserved(self) -> int:
        """Bytes of models that are being loaded and waited for. Those of the background have to see what is left."""
        return sum(flight.bytes for flight in self.flights.values() if flight.waiting)

    def current(self, key: ModelKey, wanted: str, closing: list[PooledModel]) -> PooledModel | None:
        """The model in memory, if it is what its directory holds; another one is given to nobody any more."""
        model = self.shelf.get(key)
        if model is None or model.fingerprint == wanted:
            return model
        self.retire(model, closing)
        return None

    def retire(self, model: PooledModel, closing: list[PooledModel]) -> None:
        """Gives a model to nobody any more; it is closed now, or with its last lease."""
        if self.shelf.retire(model):
            closing.append(model)

    def evict(self, models: list[PooledModel]) -> list[PooledModel]:
        """Takes out models that nobody uses, for their memory; they are still to be closed."""
        for model in models:
            self.shelf.retire(model)
        self.counters.evictions += len(models)
        return models

    def take(self, key: ModelKey, path: Path, wanted: str, first: bool) -> Lease | None:
        """A lease of a model that is in memory."""
        with self.changing() as closing:
            self.require_open()
            model = self.current(key, wanted, closing)
            if first:
                self.counters.hits += model is not None
                self.counters.misses += model is None
            if model is None:
                return None
            self.demand.add(key, path, model.bytes)
            self.shelf.pin(model)
            return self._lease(model)

    def wait(self, key: ModelKey, path: Path, need: int) -> Lease | None:
        """A lease of a model that is loaded here, or by who has begun to; ``None`` if it must be looked for again."""
        with self.changing():
            self.require_open()
            if key in self.shelf:
                return None
            flight = self.flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._reserve(key, path, need)
            flight.waiting += 1
            self.demand.add(key, path, need)
        if leads:
            self.fly(flight)
        try:
            return self._lease(flight.landed.result())
        except AbandonedError:
            return None
        except Exception:
            raise
        except BaseException:  # the wait was interrupted
            with self.changing() as closing:
                flight.waiting -= 1
                if flight.model is not None:
                    self._give_back(flight.model, closing)
            raise

    def _reserve(self, key: ModelKey, path: Path, need: int) -> Flight:
        """Makes room for a model that somebody waits for."""
        shelf, reserved = self.shelf, self.reserved()
        if self._refuses and shelf.pinned_bytes + reserved + need > shelf.capacity:
            self.counters.refused += 1
            raise self._full(path, need, shelf.pinned_bytes + reserved)
        flight = Flight(key, path, need, self.evict(shelf.excess(reserved + need)))
        self.flights[key] = flight
        return flight

    def fly(self, flight: Flight) -> None:
        """Loads a model. Whoever waits for it gets it, or the error."""
        try:
            shut(flight.victims)
            model, seconds = flight.load(self._load)
        except BaseException as error:
            with self.changing():
                del self.flights[flight.key]
                self.demand.forget(flight.key)  # the background does not try it again by itself
                self.counters.failed_loads += 1
                self.wake()
            if isinstance(error, Exception):
                flight.landed.set_exception(error)
                return
            flight.landed.set_exception(AbandonedError())
            raise
        refusal: ModelCacheFullError | None = None
        with self.changing() as closing:
            del self.flights[flight.key]
            refusal = self._land(flight, model, closing)
            self.counters.loads += 1
            self.counters.preheated += not flight.waiting
            self.counters.load_seconds.add(seconds)
            self.wake()
        if refusal is None:
            flight.landed.set_result(model)
        else:
            flight.landed.set_exception(refusal)

    def _land(self, flight: Flight, model: PooledModel, closing: list[PooledModel]) -> ModelCacheFullError | None:
        """Finds a place for a model that was loaded."""
        shelf = self.shelf
        shelf.put(model)
        self.demand.resize(model.key, model.bytes)
        if not flight.waiting:
            if self.closed or shelf.bytes + self.reserved() > shelf.capacity:
                self.retire(model, closing)
            return None
        model.users = flight.waiting
        flight.model = model
        if self.closed:
            self.retire(model, closing)
            return None
        closing += self.evict(shelf.excess(self.reserved()))
        if shelf.bytes > shelf.capacity:
            if self._refuses:
                model.users, flight.model = 0, None
                self.retire(model, closing)
                self.counters.refused += flight.waiting
                return self._full(model.path, model.bytes, shelf.bytes)
            self.counters.over_capacity += 1
            logger.warning("%s is in memory beyond the capacity: all other models are in use", model.path)
        return None

    def _lease(self, model: PooledModel) -> Lease:
        return Lease(model, self._release, self._forgotten.append)

    def _release(self, model: PooledModel) -> None:
        with self.changing() as closing:
            self._give_back(model, closing)

    def _give_back(self, model: PooledModel, closing: list[PooledModel]) -> None:
        if self.shelf.unpin(model):
            closing.append(model)
        closing += self.evict(self.shelf.excess(self.reserved()))
        self.wake()

    def _full(self, path: Path, need: int, taken: int) -> ModelCacheFullError:
        return ModelCacheFullError(
            f"{path} takes some {need / 1e6:.0f} MB; of the cache's {self.shelf.capacity / 1e6:.0f} MB, models in use "
            f"or being loaded take {taken / 1e6:.0f}. Close leases that are not needed any more, or make "
            "capacity_bytes larger"
        )


def shut(models: list[PooledModel]) -> None:
    """Closes models, and gives their memory back; the list is empty then."""
    if not models:
        return
    closed = [(weakref.ref(model.vocoder), weakref.ref(model.vocoder.executor)) for model in models]
    while models:
        model = models.pop()
        try:
            model.vocoder.close()
        except Exception:  # whoever closes it is not who has used it
            logger.exception("%s: closing it failed; its memory may not be free", model.path)
        del model.vocoder  # the caller may still hold the model, and nothing more is wanted of it
    if any(vocoder() is None and executor() is not None for vocoder, executor in closed):
        gc.collect()  # what worked for a vocoder holds itself; sessions are too much memory to wait for chance
    give_back_memory()
