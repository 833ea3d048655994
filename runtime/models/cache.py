"""Several models in memory: loaded when they are requested, kept while there is room, evicted by bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, get_args

from wavernn_trt.export.model_directory import MANIFEST, ModelDirectoryError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import check_count
from wavernn_trt.runtime.models.lease import Lease, PooledModel
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.models.pool import ModelCacheFullError, ModelPool, PoolState
from wavernn_trt.runtime.models.preheating import MAX_CONCURRENCY, AccessHeat, Preheating, Preload
from wavernn_trt.runtime.models.source import ModelFolders, ModelKey, ReadOnce, Resolver, fingerprint
from wavernn_trt.runtime.models.statistics import ModelCacheStatistics, ModelStatistics
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

__all__ = ["Lease", "ModelCache", "ModelCacheFullError", "ModelKey"]

OverCapacity = Literal["allow", "refuse"]
"""What becomes of a request for which there is no room, because all models in memory are in use."""
HALF_LIFE = 600.0
"""Seconds after which a request counts half in the access heat."""
LOAD_SECONDS = 600.0
"""How long a request waits for a load; a TensorRT-RTX engine may have to be compiled for the GPU first."""
LIMITS = SchedulerLimits(conditioning_bytes=2**28)
"""Limits of vocoders where the caller sets none: a quarter of the conditioning that a vocoder alone may hold."""
_ATTEMPTS = 3
"""How many times a model is loaded whose directory is replaced meanwhile."""


class Load(Protocol):
    """Opens a model; `Vocoder.load`, or that with settings."""

    def __call__(self, dir: Path, backend: str, *, precision: WeightPrecision | None) -> Vocoder:
        """Opens a model directory; the arguments are `Vocoder.load`'s."""


class ModelCache:
    """Keeps models in memory for many threads.

    A model is loaded once, however many requests for it come meanwhile; they wait for it, those for other models do
    not. Where memory runs short, models without users leave it, the least recently used first. Into the room that is
    left, the most requested of those that are not in memory are loaded in the background. A model whose backend was
    given up, after failures in a row, is loaded again by the next request.

    A new export is noticed by the next request: it looks at inode, size and times of the model's ``manifest.json``,
    which every export replaces, and of the folder of its versions. Users of the old one keep it. Files that are
    changed without a new manifest are damage; that is found when the model is loaded, not while it is in memory.

    Loading, closing and giving back memory take place in the background, not in the threads of requests.

    From asyncio: ``lease = await asyncio.to_thread(cache.acquire, name)``, and when done ``lease.close()``.
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
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        """Starts empty.

        Args:
            models: a folder, as `ModelFolders` takes it, or a callable that finds models.
            capacity_bytes: that models may take: `estimated_bytes`, and the conditioning that each vocoder may hold
                (``SchedulerLimits.conditioning_bytes``); in which memory, each backend decides.
            load: opens a model; ``functools.partial(Vocoder.load, threads=1, batch=16)`` gives it settings. Where it
                sets no ``limits``, vocoders may hold 256 MiB of conditioning, not 1 GiB as a vocoder alone.
            over_capacity: whether a model for which there is no room, because all others are in use, is loaded
                nevertheless (``allow``: the statistics count it, and models leave as soon as possible) or refused.
            preheat_concurrency: models that are loaded in the background at the same time, 4 at most; 0 loads none.
            half_life: seconds after which a request counts half, when the most requested models are looked for.
            load_seconds: how long requests wait for a model to load.

        Raises:
            VocoderError: an argument is not usable.
        """
        check_count("capacity_bytes", capacity_bytes)
        if isinstance(preheat_concurrency, bool) or preheat_concurrency not in range(MAX_CONCURRENCY + 1):
            raise VocoderError(
                f"preheat_concurrency: found {preheat_concurrency!r}, expected an integer from 0 to {MAX_CONCURRENCY}"
            )
        if over_capacity not in get_args(OverCapacity):
            raise VocoderError(
                f"over_capacity: found {over_capacity!r}, expected one of {', '.join(get_args(OverCapacity))}"
            )
        for name, seconds in (("half_life", half_life), ("load_seconds", load_seconds)):
            if not seconds > 0:
                raise VocoderError(f"{name}: found {seconds!r}, expected seconds above 0")
        self._resolve: Resolver = ModelFolders(models) if isinstance(models, str | Path) else models
        self._load = _with_limits(load)
        self._fingerprint: ReadOnce[str] = ReadOnce(lambda manifest: fingerprint(manifest.parent))
        self._conditioning_bytes = 0  # of the last vocoder loaded; before it is known, the bytes correct themselves
        self._hits = self._misses = 0
        self._pool: ModelPool[ModelKey, Vocoder] = ModelPool(
            "the model cache",
            capacity=capacity_bytes,
            refuses=over_capacity == "refuse",
            load_seconds=load_seconds,
        )
        self._heat = AccessHeat(half_life)
        self._preheats = preheat_concurrency > 0
        self._preheating = Preheating(self._pool, self._heat, self._open, preheat_concurrency)
        self._pool.on_change = self._preheating.advance

    def acquire(
        self, name: str, version: str | None = None, precision: WeightPrecision | None = None, backend: str = "auto"
    ) -> Lease[ModelKey, Vocoder]:
        """Loads a model if it is not in memory, and keeps it there until the lease is closed.

        Args:
            name: of the model.
            version: ``None`` is the newest.
            precision: as for `Vocoder.load`.
            backend: as for `Vocoder.load`.

        Raises:
            ModelCacheFullError: there is no room, and the cache refuses then.
            ClosedError: the cache is closed, or is draining.
            LoadTimeoutError: loading takes longer than ``load_seconds``; a later request uses it if it ends yet, and
                after `discard` the next one begins another.
            VocoderError: the model is not known.
            ValueError: the model cannot be loaded. All waiting requests get that error; the next request tries again.
        """
        first = True
        with self._pool.request():
            while True:
                key, path, wanted = self._find(ModelKey(name, version, precision, backend))
                with self._pool.changing():
                    pooled = self._current(key, wanted)
                    lease = None if pooled is None else self._pool.lease(pooled)
                    if first:
                        self._hits += pooled is not None
                        self._misses += pooled is None
                    if pooled is not None:
                        self._heat.add(key, path, pooled.bytes)
                if lease is None:
                    need = self._need(key, path)
                    if first:
                        with self._pool.changing():
                            self._heat.add(key, path, need)
                    lease = self._pool.load(key, path, need, partial(self._open, key, path))
                if lease.fingerprint == wanted:
                    return lease
                lease.close()  # the directory was replaced while the model was being loaded
                self._fingerprint.forget(path / MANIFEST)
                first = False

    @contextmanager
    def borrow(
        self, name: str, version: str | None = None, precision: WeightPrecision | None = None, backend: str = "auto"
    ) -> Iterator[Vocoder]:
        """A model that stays in memory, and open, inside a ``with`` block; arguments and errors as for `acquire`."""
        with self.acquire(name, version, precision, backend) as lease:
            yield lease.vocoder

    def preheat(self, keys: Iterable[ModelKey]) -> list[Future[bool]]:
        """Loads models in the background, in this order, before they are requested.

        Requests go first: a load begins while no request waits for another. A model is loaded if there is room, or if
        models that are requested much less can make room.

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
        preloads = []
        for asked in keys:
            key, path, wanted = self._find(asked)
            with self._pool.changing():
                self._current(key, wanted)  # an earlier export leaves the memory
            preloads.append(Preload(key, path, self._need(key, path)))
        with self._pool.changing():
            self._pool.require_ready()
            self._preheating.add(preloads)
        return [preload.done for preload in preloads]

    def discard(
        self, name: str, version: str | None = None, precision: WeightPrecision | None = None, backend: str = "auto"
    ) -> bool:
        """Removes a model, so that the next request loads it again; returns whether it was in memory.

        Its users keep it; a load under way serves the requests that wait for it. Arguments as for `acquire`.

        Raises:
            VocoderError: the model is not known.
        """
        source = self._resolve(name, version)
        key = ModelKey(source.name, source.version, precision, backend)
        with self._pool.changing():
            self._heat.forget(key)
            self._pool.loads.pop(key, None)
            pooled = self._pool.models.get(key)
            if pooled is not None:
                self._pool.retire(pooled)
            return pooled is not None

    def statistics(self) -> ModelCacheStatistics:
        """What is in memory, and counts so far."""
        pool = self._pool
        with pool.changing():
            requests = self._heat.counts()
            models = tuple(
                ModelStatistics(
                    key=pooled.key,
                    backend=pooled.vocoder.backend,
                    path=pooled.path,
                    fingerprint=pooled.fingerprint,
                    bytes=pooled.bytes,
                    users=pooled.users,
                    requests=requests.get(pooled.key, 0.0),
                    current=pool.models.get(pooled.key) is pooled,
                    scheduler=pooled.vocoder.statistics(),
                )
                for pooled in pool.held()
            )
            counts = vars(pool.counters) | {"load_seconds": pool.counters.load_seconds.percentiles()}
            return ModelCacheStatistics(
                capacity_bytes=int(pool.capacity),
                bytes=pool.bytes(),
                pinned=sum(model.users > 0 for model in models),
                pinned_bytes=pool.bytes(in_use=True),
                loading=len(pool.loads),
                waiting=sum(progress.waiting for progress in pool.loads.values()),
                hits=self._hits,
                misses=self._misses,
                models=models,
                **counts,
            )

    @property
    def state(self) -> PoolState:
        """``ready``, or ``draining`` or ``closed``, when requests get a `ClosedError`."""
        return self._pool.state

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests from now on, and waits until all leases are closed, so many seconds at most.

        Returns:
            Whether they are closed.
        """
        return self._pool.drain(seconds)

    def close(self) -> None:
        """Closes all models, those in use or waited for with their last lease; may be called again.

        Waits for models that are loaded or closed in the background, ten seconds at most: one that hangs is left.
        """
        with self._pool.changing():
            self._preheating.cancel()
        self._pool.close()

    def __enter__(self) -> ModelCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, asked: ModelKey) -> tuple[ModelKey, Path, str]:
        """The key with the version that was found, the directory, and its fingerprint."""
        source = self._resolve(asked.name, asked.version)
        key = replace(asked, name=source.name, version=source.version)
        return key, source.path, self._fingerprint(source.path / MANIFEST)

    def _current(self, key: ModelKey, wanted: str) -> PooledModel[ModelKey, Vocoder] | None:
        """The model in memory; one of another export, or with a broken backend, is retired. With the lock held."""
        pooled = self._pool.models.get(key)
        if pooled is not None and (pooled.fingerprint != wanted or pooled.vocoder.state == "broken"):
            self._pool.retire(pooled)
            return None
        return pooled

    def _need(self, key: ModelKey, path: Path) -> int:
        """Bytes that a model will take, as far as known before it is loaded."""
        backend = "onnxruntime" if key.backend == "auto" else key.backend.replace("-", "_")
        return estimated_bytes(path, backend, key.precision) + self._conditioning_bytes

    def _open(self, key: ModelKey, path: Path) -> PooledModel[ModelKey, Vocoder]:
        """Loads a model, in a thread of the pool."""
        try:
            vocoder, exported = self._open_settled(key, path)
        except BaseException:
            with self._pool.changing():
                self._heat.forget(key)  # preheating does not try it again
            raise
        try:
            conditioning = vocoder.limits.conditioning_bytes
            size = estimated_bytes(path, vocoder.backend, key.precision, vocoder.batch) + conditioning
        except BaseException:
            vocoder.close()
            raise
        with self._pool.changing():
            self._conditioning_bytes = conditioning
            self._heat.resize(key, size)
        return PooledModel(key, vocoder, path, size, exported)

    def _open_settled(self, key: ModelKey, path: Path) -> tuple[Vocoder, str]:
        """Loads a model whose directory is not replaced meanwhile; also returns its fingerprint."""
        for _ in range(_ATTEMPTS):
            before = fingerprint(path)
            try:
                vocoder = self._load(path, key.backend, precision=key.precision)
            except Exception:
                if not _replaced(path, before):
                    raise
                continue  # a directory that an export is just replacing looks like a damaged one
            if not _replaced(path, before):
                return vocoder, before
            vocoder.close()
        raise ModelDirectoryError(
            f"{path} was replaced each of the {_ATTEMPTS} times that it was loaded; expected an export to be over"
        )


def _with_limits(load: Load) -> Load:
    given = load if isinstance(load, partial) else partial(load)
    if given.func != Vocoder.load or "limits" in given.keywords:
        return load
    return partial(Vocoder.load, *given.args, **given.keywords, limits=LIMITS)


def _replaced(path: Path, before: str) -> bool:
    try:
        return fingerprint(path) != before
    except ModelDirectoryError:  # removed, and nothing in its place
        return False
