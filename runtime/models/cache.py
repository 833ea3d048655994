"""A cache of models in memory, bounded in bytes; models are loaded on request and evicted least recently used first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from wavernn_trt.export.model_directory import MANIFEST, ModelDirectoryError
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import LoadPrecision, check_count
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
"""What happens to a request if the models in use leave no room for it."""
HALF_LIFE = 600.0
"""Half-life of the access heat in seconds."""
LOAD_SECONDS = 600.0
"""Maximum time that a request waits for a load; a TensorRT-RTX engine may be compiled for the GPU first."""
LIMITS = SchedulerLimits(conditioning_bytes=2**28)
"""Default limits of vocoders in a cache: a quarter of the conditioning that a vocoder outside of a cache may hold."""
_ATTEMPTS = 3
"""Maximum number of loads of a model whose directory is replaced during the load."""


Load = Callable[..., Vocoder]
"""Opens a model directory: `Vocoder.load`, or a function that is called as ``load(path, backend, precision=…)``."""


class ModelCache:
    """Keeps models in memory. Thread-safe.

    Simultaneous requests for the same model share one load, and do not delay requests for other models. If memory runs
    short, models without users are evicted, the least recently used first. If there is free room, the most requested
    absent models are loaded in the background. A model whose backend failed repeatedly (state ``broken``) is loaded
    again by the next request.

    The next request detects a new export by inode, size and times of the model's ``manifest.json``, which every export
    replaces, and of the folder of its versions. Existing leases keep the old model. A file changed without a new
    manifest is damage, which is detected when the model is loaded, not while it is in memory.

    Models are loaded and closed in background threads, not in the threads of requests.

    From asyncio: ``lease = await asyncio.to_thread(cache.acquire, name)``, and later ``lease.close()``.
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
            models: the root folder (see `ModelFolders`), or a callable that finds models.
            capacity_bytes: maximum of all models: `estimated_bytes` and the conditioning that each vocoder may hold
                (``SchedulerLimits.conditioning_bytes``), whether in the memory of the host or of a GPU.
            load: opens a model; ``functools.partial(Vocoder.load, threads=1, batch=16)`` sets options. If it sets no
                ``limits``, vocoders may hold 256 MiB of conditioning, instead of 1 GiB outside of a cache.
            over_capacity: if the models in use leave no room for a requested model, ``allow`` loads it nevertheless
                (the statistics count it, and models are evicted as soon as possible), ``refuse`` raises an error.
            preheat_concurrency: maximum number of simultaneous background loads, at most 4; 0 disables them.
            half_life: of the request counts that select models for background loads, in seconds.
            load_seconds: maximum time that requests wait for a load.

        Raises:
            VocoderError: an argument is invalid.
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
        self._conditioning_bytes = 0  # of the vocoder loaded last; estimates are corrected after each load
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
        self, name: str, version: str | None = None, precision: LoadPrecision | None = None, backend: str = "auto"
    ) -> Lease[ModelKey, Vocoder]:
        """Leases a model, which is loaded if it is not in memory, and stays there until the lease is closed.

        Args:
            name: of the model.
            version: ``None`` is the newest.
            precision: as for `Vocoder.load`.
            backend: as for `Vocoder.load`.

        Raises:
            ModelCacheFullError: there is no room, and ``over_capacity`` is ``refuse``.
            ClosedError: the cache is closed or draining.
            LoadTimeoutError: the load takes longer than ``load_seconds``. It continues, and later requests use its
                result; after `discard`, the next request starts a new load.
            VocoderError: the model is unknown.
            ValueError: the model cannot be loaded. All waiting requests get the error; the next request tries again.
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
                lease.close()  # the directory was replaced during the load
                self._fingerprint.forget(path / MANIFEST)
                first = False

    @contextmanager
    def borrow(
        self, name: str, version: str | None = None, precision: LoadPrecision | None = None, backend: str = "auto"
    ) -> Iterator[Vocoder]:
        """Context manager of a vocoder that stays open inside the block; arguments and errors as for `acquire`."""
        with self.acquire(name, version, precision, backend) as lease:
            yield lease.vocoder

    def preheat(self, keys: Iterable[ModelKey]) -> list[Future[bool]]:
        """Loads models in the background, in this order, before they are requested.

        Requests have priority: a load starts when no request waits for a load. A model is loaded if there is room, or
        if eviction of models that are requested at most half as often makes room.

        Args:
            keys: the models.

        Returns:
            A future for each model: True if it is in memory, False if there was no room. It raises the error of a
            failed load, and is cancelled when the cache is closed.

        Raises:
            VocoderError: a model is unknown, the cache is closed, or background loads are disabled.
            ModelDirectoryError: a path is not a model directory.
        """
        if not self._preheats:
            raise VocoderError("preheat_concurrency: found 0, expected at least 1 to preheat models")
        preloads = []
        for requested in keys:
            key, path, wanted = self._find(requested)
            with self._pool.changing():
                self._current(key, wanted)  # removes an earlier export
            preloads.append(Preload(key, path, self._need(key, path)))
        with self._pool.changing():
            self._pool.require_ready()
            self._preheating.add(preloads)
        return [preload.done for preload in preloads]

    def discard(
        self, name: str, version: str | None = None, precision: LoadPrecision | None = None, backend: str = "auto"
    ) -> bool:
        """Removes a model, so that the next request loads it again; returns whether it was in memory.

        Existing leases stay valid, and a load in progress serves the requests that wait for it. Arguments as for
        `acquire`.

        Raises:
            VocoderError: the model is unknown.
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
        """A snapshot of the models in memory and the counters."""
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
        """``ready``; or ``draining`` or ``closed``, in which requests raise `ClosedError`."""
        return self._pool.state

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests, and waits until all leases are closed; returns whether that was within ``seconds``."""
        return self._pool.drain(seconds)

    def close(self) -> None:
        """Closes all models, those in use after their last lease; may be called several times.

        Waits at most ten seconds for background threads.
        """
        with self._pool.changing():
            self._preheating.cancel()
        self._pool.close()

    def __enter__(self) -> ModelCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _find(self, requested: ModelKey) -> tuple[ModelKey, Path, str]:
        """Resolves a key: the key with the resolved version, the directory, and its fingerprint."""
        source = self._resolve(requested.name, requested.version)
        key = replace(requested, name=source.name, version=source.version)
        return key, source.path, self._fingerprint(source.path / MANIFEST)

    def _current(self, key: ModelKey, wanted: str) -> PooledModel[ModelKey, Vocoder] | None:
        """The model in memory; retires it if it is from another export or its backend is broken. With the lock."""
        pooled = self._pool.models.get(key)
        if pooled is not None and (pooled.fingerprint != wanted or pooled.vocoder.state == "broken"):
            self._pool.retire(pooled)
            return None
        return pooled

    def _need(self, key: ModelKey, path: Path) -> int:
        """Estimated bytes of a model that is not loaded yet."""
        backend = "onnxruntime" if key.backend == "auto" else key.backend.replace("-", "_")
        return estimated_bytes(path, backend, key.precision) + self._conditioning_bytes

    def _open(self, key: ModelKey, path: Path) -> PooledModel[ModelKey, Vocoder]:
        """Loads a model. Called in a thread of the pool."""
        try:
            vocoder, exported = self._open_settled(key, path)
        except BaseException:
            with self._pool.changing():
                self._heat.forget(key)  # so that it is not loaded in the background again
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
        """Loads a model, again if its directory was replaced during the load; also returns its fingerprint."""
        for _ in range(_ATTEMPTS):
            before = fingerprint(path)
            try:
                vocoder = self._load(path, key.backend, precision=key.precision)
            except Exception:
                if not _replaced(path, before):
                    raise
                continue  # a directory that is being replaced looks damaged
            if not _replaced(path, before):
                return vocoder, before
            vocoder.close()
        raise ModelDirectoryError(
            f"{path} was replaced during each of {_ATTEMPTS} loads, expected no change; wait until the export ends"
        )


def _with_limits(load: Load) -> Load:
    given = load if isinstance(load, partial) else partial(load)
    if given.func != Vocoder.load or "limits" in given.keywords:
        return load
    return partial(Vocoder.load, *given.args, **given.keywords, limits=LIMITS)


def _replaced(path: Path, before: str) -> bool:
    try:
        return fingerprint(path) != before
    except ModelDirectoryError:  # removed, not replaced
        return False
