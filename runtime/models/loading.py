"""Loading a model that several wait for."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wavernn_trt.export.model_directory import ModelDirectoryError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.models.shelf import PooledModel, ModelKey
from wavernn_trt.runtime.models.source import fingerprint
from wavernn_trt.runtime.vocoder import Vocoder

_ATTEMPTS = 3


class Load(Protocol):
    """Opens a model; `Vocoder.load`, or that with settings."""

    def __call__(self, dir: Path, backend: str, *, precision: WeightPrecision | None) -> Vocoder:
        """Opens a model directory.

        Args:
            dir: the model directory.
            backend: as for `Vocoder.load`.
            precision: as for `Vocoder.load`.
        """


class AbandonedError(Exception):
    """Who was loading the model was interrupted; who waits for it may try."""


@dataclass(eq=False)
class Flight:
    """A model that is being loaded. Whoever reads or changes it holds the cache's lock."""

    key: ModelKey
    path: Path
    bytes: int
    """Room that is reserved."""
    victims: list[PooledModel] = field(default_factory=list)
    """Models that are closed first, to make room."""
    waiting: int = 0
    """Requests that wait for it; none, while it is loaded in the background."""
    model: PooledModel | None = None
    """The model, once it is in memory; it then counts those who wait as its users."""
    landed: Future[PooledModel] = field(default_factory=Future)
    """Is waited for without the lock."""

    def load(self, load: Load) -> tuple[PooledModel, float]:
        """Opens the model.

        Returns:
            It, and the seconds that it took.

        Raises:
            ModelDirectoryError: its directory was replaced again and again meanwhile.
            ValueError: it cannot be opened.
        """
        begun = time.monotonic()
        for _ in range(_ATTEMPTS):
            before = fingerprint(self.path)
            try:
                vocoder = load(self.path, self.key.backend, precision=self.key.precision)
            except Exception:
                # A directory that an export is just replacing looks like a damaged one.
                if not self._replaced(before):
                    raise
                continue
            try:
                if not self._replaced(before):
                    return PooledModel(
                        self.key, self.path, before, vocoder, self._taken(vocoder)
                    ), time.monotonic() - begun
            except BaseException:
                vocoder.close()
                raise
            vocoder.close()
        raise ModelDirectoryError(
            f"{self.path} was replaced each of the {_ATTEMPTS} times that it was loaded; expected an export to be over"
        )

    def _replaced(self, before: str) -> bool:
        try:
            return fingerprint(self.path) != before
        except ModelDirectoryError:  # removed, and nothing in its place
            return False

    def _taken(self, vocoder: Vocoder) -> int:
        return estimated_bytes(self.path, vocoder.backend, self.key.precision, vocoder.batch)


def estimated_need(key: ModelKey, path: Path) -> int:
    """Bytes that a model will take, as far as that can be told before it is loaded."""
    backend = "onnxruntime" if key.backend == "auto" else key.backend.replace("-", "_")
    return estimated_bytes(path, backend, key.precision)
