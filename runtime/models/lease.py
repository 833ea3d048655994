"""A loaded model in a pool, the leases that keep it open, and how it is closed."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from wavernn_trt.runtime.errors import ClosedError
from wavernn_trt.runtime.models.memory import give_back_memory
from wavernn_trt.runtime.vocoder import Vocoder

logger = logging.getLogger(__name__)


class Closeable(Protocol):
    """What a pool holds."""

    def close(self) -> None:
        """Frees what it holds."""


Key = TypeVar("Key", bound=Hashable)
Model = TypeVar("Model", bound=Closeable)


@dataclass(eq=False)
class PooledModel(Generic[Key, Model]):
    """A loaded model."""

    key: Key
    vocoder: Model
    path: Path
    """Where it was loaded from; names it in messages."""
    bytes: int = 0
    """Memory that it takes, estimated."""
    fingerprint: str = ""
    """Identifies the files that it was loaded from."""
    users: int = 0
    """Leases that are not closed; the pool's lock guards it."""


class Lease(Generic[Key, Model]):
    """The right to use a model: until it is closed, the vocoder stays open. Also a context manager.

    A lease that is garbage collected counts as closed, so keep it, and not its vocoder alone. A lease that is never
    received, as after a cancelled ``await asyncio.to_thread(cache.acquire, …)``, is therefore given back too.
    """

    def __init__(
        self,
        pooled: PooledModel[Key, Model],
        release: Callable[[PooledModel[Key, Model]], None],
        collected: Callable[[PooledModel[Key, Model]], None],
    ) -> None:
        """Stands for one of the model's users; `ModelCache.acquire` makes leases.

        Args:
            pooled: the model.
            release: is called once, when the lease is closed.
            collected: is called instead when it is garbage collected, at any moment and in any thread.
        """
        self.key = pooled.key
        """What was found for what was asked."""
        self.path = pooled.path
        """The model directory."""
        self.fingerprint = pooled.fingerprint
        """The SHA-256 of its ``manifest.json``, as it was when the model was loaded."""
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
        """Gives the model back; may be called again. Does not wait for a model that is closed then."""
        self._vocoder = None
        if (detached := self._finalizer.detach()) is not None:  # of several calls, one gets it
            (pooled,) = detached[2]
            self._release(pooled)

    def __enter__(self) -> Lease[Key, Model]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def close_models(models: list[PooledModel[Key, Model]]) -> None:
    """Closes models and gives their memory back to the system; takes its time, and empties the list."""
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
            logger.exception("%s: closing it failed; its memory may not be free", pooled.path)
        del pooled.vocoder  # a future may still hold the pooled model
    if any(vocoder() is None and executor() is not None for vocoder, executor in closed):
        gc.collect()  # reference cycles around an executor keep its sessions' memory
    give_back_memory()
