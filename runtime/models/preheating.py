"""Which models are loaded before anyone asks for them."""

from __future__ import annotations

import heapq
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wavernn_trt.runtime.models.background import Background, Work
from wavernn_trt.runtime.models.loading import Flight
from wavernn_trt.runtime.models.shelf import PooledModel, ModelKey
from wavernn_trt.runtime.models.store import ModelStore

_CLEARLY = 2.0
"""How many times as often as another a model is asked for whose place it takes; with less, two that are asked for alike
would take turns."""
_CONSIDERED = 4
"""Of the most requested models that are not in memory: how many are tried for room."""


@dataclass(eq=False)
class Wish:
    """A model that is to be preheated because somebody said so."""

    key: ModelKey
    path: Path
    need: int
    """Bytes."""
    done: Future[bool] = field(default_factory=Future)
    """Whether it is in memory."""


class Preheating:
    """Loads wished models, then those that are asked for most, as long as they fit.

    It begins a model only when nobody waits for another, and counts what it loads as the last to get room; so it never
    stands in a request's way. A request for a model that is just being preheated waits for that loading.
    """

    def __init__(self, store: ModelStore, concurrency: int) -> None:
        """Begins when there is something to do.

        Args:
            store: where models go.
            concurrency: models that are loaded at the same time.
        """
        self._store = store
        self._wishes: deque[Wish] = deque()
        self._background = Background(store.lock, self._find, concurrency)
        if concurrency:
            store.wake = self._wake

    def wish(self, wishes: list[Wish]) -> None:
        """Takes wishes, with the store's lock held."""
        self._wishes += wishes
        self._wake()

    def close(self) -> None:
        """Gives up wishes, and waits for what is being loaded; called when the store is closed, without its lock."""
        with self._store.lock:
            wishes, self._wishes = self._wishes, deque()
        for wish in wishes:
            wish.done.cancel()
        self._background.join()

    def _wake(self) -> None:
        if self._idle() and (self._wishes or self._most_requested() is not None):
            self._background.wake()

    def _idle(self) -> bool:
        return not self._store.closed and not any(flight.waiting for flight in self._store.flights.values())

    def _find(self) -> Work | None:
        if (work := self._next()) is not None:
            self._wake()  # there may be more, for another thread
        return work

    def _next(self) -> Work | None:
        store = self._store
        if not self._idle():
            return None
        while self._wishes:
            wish = self._wishes.popleft()
            if not wish.done.set_running_or_notify_cancel():
                continue
            if wish.key in store.shelf:
                return partial(wish.done.set_result, True)
            if (under_way := store.flights.get(wish.key)) is not None:
                return partial(under_way.landed.add_done_callback, partial(self._answer, wish))
            if (leaving := self._room(wish.key, wish.need)) is None:
                return partial(wish.done.set_result, False)
            flight = self._begin(wish.key, wish.path, wish.need, leaving)
            flight.landed.add_done_callback(partial(self._answer, wish))
            return partial(store.fly, flight)
        if (found := self._most_requested()) is None:
            return None
        key, leaving = found
        return partial(store.fly, self._begin(key, *store.demand.place(key), leaving))

    def _begin(self, key: ModelKey, path: Path, need: int, leaving: list[PooledModel]) -> Flight:
        flight = self._store.flights[key] = Flight(key, path, need, self._store.evict(leaving))
        return flight

    def _answer(self, wish: Wish, landed: Future[PooledModel]) -> None:
        if (error := landed.exception()) is not None:
            wish.done.set_exception(error)
            return
        with self._store.lock:
            there = wish.key in self._store.shelf
        wish.done.set_result(there)

    def _most_requested(self) -> tuple[ModelKey, list[PooledModel]] | None:
        """The most requested model for which there is room, and those that have to leave for it."""
        store = self._store
        counts = store.demand.counts()
        absent = [key for key in counts if key not in store.shelf and key not in store.flights]
        for key in heapq.nlargest(_CONSIDERED, absent, key=counts.__getitem__):
            _, need = store.demand.place(key)
            if (leaving := self._room(key, need)) is not None:
                return key, leaving
        return None

    def _room(self, key: ModelKey, need: int) -> list[PooledModel] | None:
        store = self._store
        counts = store.demand.counts()
        under_way = sum(flight.bytes for flight in store.flights.values())
        return store.shelf.less_wanted(need + under_way, counts, counts.get(key, 0.0) / _CLEARLY)
