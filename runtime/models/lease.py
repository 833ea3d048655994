"""A loaded model in a pool, the leases that keep it open, and how it is closed."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from wavernn_trt.runtime.errors import ClosedError
from wavernn_trt.runtime.models.memory import give_back_memory
from wavernn_trt.runtime.vocoder import Vocoder

logger = logging.getLogger(__name__)


class Closeable(Protocol):
    """An object that a pool can hold."""

    def close(self) -> None:
        """Frees its memory."""


Key = TypeVar("Key", bound=Hashable)
Model = TypeVar("Model", bound=Closeable)


@dataclass(eq=False)
class PooledModel(Generic[Key, Model]):
    """A loaded model."""

    key: Key
    vocoder: Model
    path: Path
    """Directory that it was loaded from; for messages."""
    bytes: int = 0
    """Estimated memory."""
    fingerprint: str = ""
    """Hash of the files that it was loaded from."""
    users: int = 0
    """Open leases; guarded by the pool's lock."""


class Lease(Generic[Key, Model]):
    """A reference to a loaded model, which keeps it open until the lease is closed. Also a context manager.

    A lease that is garbage collected counts as closed: keep the lease, not only its vocoder. So a lease that no caller
    receives, as after a cancelled ``await asyncio.to_thread(cache.acquire, …)``, does not keep the model open.
    """

    def __init__(
        self,
        pooled: PooledModel[Key, Model],
        release: Callable[[PooledModel[Key, Model]], None],
        collected: Callable[[PooledModel[Key, Model]], None],
    ) -> None:
        """Made by `ModelCache.acquire`.

        Args:
            pooled: the model.
            release: called once, when the lease is closed.
            collected: called instead when the lease is garbage collected, at any time and in any thread.
        """
        self.key = pooled.key
        """The key of the model, with the resolved name and version."""
        self.path = pooled.path
        """The model directory."""
        self.fingerprint = pooled.fingerprint
        """SHA-256 of ``manifest.json`` at the time of loading."""
        self._vocoder: Model | None = pooled.vocoder
        self._release = release
        self._finalizer = weakref.finalize(self, collected, pooled)
        self._finalizer.atexit = False

    @property
    def vocoder(self) -> Model:
        """The model.

        Raises:
            ClosedError: the lease is closed.
        """
        if self._vocoder is None:
            raise ClosedError(f"the lease of {self.path} is closed; acquire the model again")
        return self._vocoder

    def close(self) -> None:
        """Releases the model; may be called several times. Does not wait until the model is closed."""
        self._vocoder = None
        if (detached := self._finalizer.detach()) is not None:  # not None in the first call only
            (pooled,) = detached[2]
            self._release(pooled)

    def __enter__(self) -> Lease[Key, Model]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def close_models(models: list[PooledModel[Key, Model]]) -> None:
    """Closes models, empties the list, and returns freed memory to the system. May take seconds."""
    if not models:
        return
    vocoders = [pooled.vocoder for pooled in models if isinstance(pooled.vocoder, Vocoder)]
    closed = [(weakref.ref(vocoder), weakref.ref(vocoder.executor)) for vocoder in vocoders]
    del vocoders
    while models:
        pooled = models.pop()
        try:
            pooled.vocoder.close()
        except Exception:
            logger.exception("%s: closing the model failed; its memory may not be free", pooled.path)
        del pooled.vocoder  # a future may still refer to the pooled model
    if any(vocoder() is None and executor() is not None for vocoder, executor in closed):
        gc.collect()  # reference cycles around an executor keep its sessions' memory
    give_back_memory()
