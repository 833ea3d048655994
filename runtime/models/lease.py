"""The right to use a model, which keeps it in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.models.shelf import PooledModel, ModelKey
from wavernn_trt.runtime.vocoder import Vocoder


class Lease:
    """A model in use: as long as it is not closed, the vocoder stays open. Also a context manager.

    A lease that is forgotten counts as closed, so keep it, and not its vocoder alone. So a lease that nobody takes any
    more, as after a cancelled ``await asyncio.to_thread(cache.acquire, …)``, holds nothing for ever.
    """

    def __init__(
        self, model: PooledModel, release: Callable[[PooledModel], None], forgotten: Callable[[PooledModel], None]
    ) -> None:
        """Takes a model that is counted as used; `ModelCache.acquire` is the way to one.

        Args:
            model: what is used.
            release: is called once, when the lease is closed.
            forgotten: is called instead when the lease is garbage: at any time, by any thread.
        """
        self._vocoder: Vocoder | None = model.vocoder
        self._release = release
        self._finalizer = weakref.finalize(self, forgotten, model)
        self._finalizer.atexit = False
        self.key: ModelKey = model.key
        """What was found for what was asked."""
        self.path: Path = model.path
        """The model directory."""
        self.fingerprint: str = model.fingerprint
        """The SHA-256 of its ``manifest.json``, as it was when the model was loaded."""

    @property
    def vocoder(self) -> Vocoder:
        """The model.

        Raises:
            VocoderError: the lease is closed.
        """
        if self._vocoder is None:
            raise VocoderError(f"the lease of {self.path} is closed; acquire the model again")
        return self._vocoder

    def close(self) -> None:
        """Gives the model back. Once is enough, more do no harm.

        Where a model has to leave the memory then, this waits until it is closed: up to a chunk's time.
        """
        self._vocoder = None
        if (detached := self._finalizer.detach()) is not None:  # to one caller only
            (model,) = detached[2]
            self._release(model)

    def __enter__(self) -> Lease:
        """The lease itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()
