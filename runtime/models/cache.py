"""Several models in memory: loaded when they are asked for, kept while there is room, closed when there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import check_count
from wavernn_trt.runtime.models.lease import Lease
from wavernn_trt.runtime.models.loading import Load, estimated_need
from wavernn_trt.runtime.models.preheating import Preheating, Wish
from wavernn_trt.runtime.models.shelf import ModelKey
from wavernn_trt.runtime.models.source import ModelFolders, Resolver, fingerprint
from wavernn_trt.runtime.models.statistics import ModelCacheStatistics, take_statistics
from wavernn_trt.runtime.models.store import ModelCacheFullError, ModelStore
from wavernn_trt.runtime.vocoder import Vocoder

__all__ = ["ModelCache", "ModelCacheFullError", "ModelKey"]

OverCapacity = Literal["allow", "refuse"]
"""What becomes of a request for which there is no room, because all models in memory are in use."""
HALF_LIFE = 600.0
"""Seconds after which a request counts half, when the most requested models are looked for."""


class ModelCache:
    """Keeps models in memory for many threads.

    A model is loaded once, however many ask for it, in the thread of the first; others that ask for it wait, those that
    ask for another do not. Where memory runs short, models leave it that nobody uses, the least recently used first.
    In what is left, the most requested of those that are not in memory are loaded in the background.

    Each request looks at the model's manifest: where the model was exported again since it was loaded, the new one is
    loaded, and who uses the old one keeps it.

    From asyncio: ``lease = await asyncio.to_thread(cache.acquire, name)``, and when done
    ``await asyncio.to_thread(lease.close)``.
    """

    def __init__(
        self,
        models: str | Path | Resolver,
        *,
        capacity_bytes: int,
        load: Load = Vocoder.load,
        over_capacity: OverCapacity = "allow",
        preheat_concurrency: int = 1,
        half_life: float = HALF_LIFE,
    ) -> None:
        """Starts empty.

        Args:
            models: a folder, as `ModelFolders` takes it, or what finds models.
            capacity_bytes: that models may take, by `estimated_bytes`; in which memory, each backend decides.
            load: opens a model; ``functools.partial(Vocoder.load, threads=1, batch=16)`` gives it settings.
            over_capacity: whether a model for which there is no room, because all others are in use, is loaded
                nevertheless (``allow``: the statistics say so, and models leave as soon as they may) or refused.
            preheat_concurrency: models that are loaded in the background at the same time; 0 loads none.
            half_life: seconds after which a request counts half, when the most requested models are looked for.

        Raises:
            VocoderError: an argument is not usable.
        """
        check_count("capacity_bytes", capacity_bytes)
        if preheat_concurrency != 0:
            check_count("preheat_concurrency", preheat_concurrency)
        if over_capacity not in get_args(OverCapacity):
            raise VocoderError(
                f"over_capacity: found {over_capacity!r}, expected one of {', '.join(get_args(OverCapacity))}"
            )
        if not half_life > 0:
            raise VocoderError(f"half_life: found {half_life!r}, expected seconds above 0")
        self._resolve: Resolver = ModelFolders(models) if isinstance(models, str | Path) else models
        self._store = ModelStore(capacity_bytes, load, refuses=over_capacity == "refuse", half_life=half_life)
        self._preheats = preheat_concurrency > 0
        self._preheating = Preheating(self._store, preheat_concurrency)

    def acquire(
        self, name: str, version: str | None = None, precision: WeightPrecision | None = None, backend: str = "auto"
    ) -> Lease:
        """Loads a model if it is not in memory, and keeps it there until the lease is closed.

        Args:
            name: of the model.
            version: ``None`` is the newest.
            precision: as for `Vocoder.load`.
            backend: as for `Vocoder.load`.

        Raises:
            ModelCacheFullError: there is no room, and the cache refuses then.
            VocoderError: the model is not known, or the cache is closed.
            ValueError: the model cannot be loaded. All who wait get that error; the next request tries again.
        """
        first = True
        while True:
            source = self._resolve(name, version)
            key = ModelKey(source.name, source.version, precision, backend)
            wanted = fingerprint(source.path)
            lease = self._store.take(key, source.path, wanted, first)
            if lease is None:
                lease = self._store.wait(key, source.path, estimated_need(key, source.path))
            first = False
            if lease is not None and lease.fingerprint == wanted:
                return lease
            # The directory was replaced while the model was being loaded, or who loaded it was interrupted.
            if lease is not None:
                lease.close()

    @contextmanager
    def borrow(
        self, name: str, version: str | None = None, precision: WeightPrecision | None = None, backend: str = "auto"
    ) -> Iterator[Vocoder]:
        """A model that stays in memory, and open, inside a ``with`` block; arguments and errors as for `acquire`."""
        with self.acquire(name, version, precision, backend) as lease:
            yield lease.vocoder

    def preheat(self, keys: Iterable[ModelKey]) -> list[Future[bool]]:
        """Loads models in the background, in this order, before anyone asks for them.

        Requests go first: a model is begun when nobody waits for another. It is loaded if there is room, or if models
        that are asked for much less can make room.

        Args:
            keys: the models.

        Returns:
            For each whether it is in memory now, or there was no room. It raises what loading raises, and is cancelled
            when the cache is closed.

        Raises:
            VocoderError: a model is not known, the cache is closed, or it preheats nothing.
            ModelDirectoryError: a model's directory is not one.
        """
        if not self._preheats:
            raise VocoderError("preheat_concurrency: found 0, expected at least 1 for models to be preheated")
        wishes = []
        for key in keys:
            source = self._resolve(key.name, key.version)
            found = replace(key, name=source.name, version=source.version)
            with self._store.changing() as closing:
                self._store.current(found, fingerprint(source.path), closing)  # an older one goes
            wishes.append(Wish(found, source.path, estimated_need(found, source.path)))
        with self._store.changing():
            self._store.require_open()
            self._preheating.wish(wishes)
        return [wish.done for wish in wishes]

    def discard(
        self, name: str, version: str | None = None, precision: WeightPrecision | None = None, backend: str = "auto"
    ) -> bool:
        """Takes a model out, for the next request to load it anew; who uses it keeps it.

        Args:
            name: as for `acquire`.
            version: as for `acquire`.
            precision: as for `acquire`.
            backend: as for `acquire`.

        Returns:
            Whether it was in memory.

        Raises:
            VocoderError: the model is not known.
        """
        source = self._resolve(name, version)
        key = ModelKey(source.name, source.version, precision, backend)
        with self._store.changing() as closing:
            self._store.demand.forget(key)
            model = self._store.shelf.get(key)
            if model is not None:
                self._store.retire(model, closing)
            return model is not None

    def statistics(self) -> ModelCacheStatistics:
        """What is in memory, and what was counted so far."""
        store = self._store
        with store.changing():
            waiting = [flight.waiting for flight in store.flights.values()]
            return take_statistics(store.shelf, waiting, store.counters, store.demand.counts())

    def close(self) -> None:
        """Closes all models, those in use as soon as they are not, and ends the background's threads.

        Waits for models that are just being loaded there. May be called again.
        """
        store = self._store
        with store.changing() as closing:
            store.closed = True
            for model in store.shelf.current():
                store.retire(model, closing)
        self._preheating.close()

    def __enter__(self) -> ModelCache:
        """The cache itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()
