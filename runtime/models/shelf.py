"""Which models are in memory, in which order they leave it, and who uses them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.vocoder import Vocoder


@dataclass(frozen=True)
class ModelKey:
    """What a model is asked for by."""

    name: str
    version: str | None = None
    """``None`` is the newest."""
    precision: WeightPrecision | None = None
    """On a GPU; ``None`` is that of the engine that was used last, and for ``cuda`` what suits the GPU."""
    backend: str = "auto"
    """As for `Vocoder.load`."""

    def __str__(self) -> str:
        """Its parts as far as they say something: ``alto/2/fp16``."""
        parts = (self.name, self.version, self.precision, None if self.backend == "auto" else self.backend)
        return "/".join(part for part in parts if part is not None)


@dataclass(eq=False)
class PooledModel:
    """A model in memory."""

    key: ModelKey
    """With the version that was found."""
    path: Path
    fingerprint: str
    vocoder: Vocoder
    bytes: int
    """An estimate."""
    users: int = 0
    """Leases; a model with some stays."""


class ModelShelf:
    """The models in memory, the least recently used first. Whoever calls holds the cache's lock."""

    def __init__(self, capacity: int) -> None:
        """Starts empty.

        Args:
            capacity: bytes.
        """
        self.capacity = capacity
        self._models: OrderedDict[ModelKey, PooledModel] = OrderedDict()
        self._retired: list[PooledModel] = []

    def __iter__(self) -> Iterator[PooledModel]:
        """All that take memory: those that can be asked for, then those that are only used to their end."""
        yield from self._models.values()
        yield from self._retired

    def __contains__(self, key: ModelKey) -> bool:
        """Whether a model can be asked for."""
        return key in self._models

    @property
    def bytes(self) -> int:
        """Of all models."""
        return sum(model.bytes for model in self)

    @property
    def pinned_bytes(self) -> int:
        """Of those in use."""
        return sum(model.bytes for model in self if model.users)

    def get(self, key: ModelKey) -> PooledModel | None:
        """A model that can be asked for."""
        return self._models.get(key)

    def current(self) -> list[PooledModel]:
        """All that can be asked for."""
        return list(self._models.values())

    def is_current(self, model: PooledModel) -> bool:
        """Whether this is the model that its key gives."""
        return self._models.get(model.key) is model

    def put(self, model: PooledModel) -> None:
        """Adds a model, as the most recently used."""
        self._models[model.key] = model

    def pin(self, model: PooledModel) -> None:
        """Counts one more user."""
        model.users += 1

    def unpin(self, model: PooledModel) -> bool:
        """Counts one user less, the most recent; gives whether the model was only used to its end, and is out now."""
        model.users -= 1
        if self.is_current(model):
            self._models.move_to_end(model.key)
            return False
        if model.users:
            return False
        self._retired.remove(model)
        return True

    def retire(self, model: PooledModel) -> bool:
        """Gives a model to nobody any more; gives whether it is out now, or is still used to its end."""
        del self._models[model.key]
        if model.users:
            self._retired.append(model)
        return not model.users

    def idle(self) -> list[PooledModel]:
        """Models that nobody uses, the least recently used first."""
        return [model for model in self._models.values() if not model.users]

    def excess(self, reserved: int = 0) -> list[PooledModel]:
        """Models that nobody uses and that would have to leave for the others to fit, the least recently used first.

        Args:
            reserved: bytes of models that are being loaded.
        """
        chosen = []
        excess = self.bytes + reserved - self.capacity
        for model in self.idle():
            if excess <= 0:
                break
            chosen.append(model)
            excess -= model.bytes
        return chosen

    def less_wanted(self, needed: int, wanted: dict[ModelKey, float], below: float) -> list[PooledModel] | None:
        """Models that would have to leave for another to fit.

        Args:
            needed: bytes of the other, and of all that are being loaded.
            wanted: how much each model is.
            below: how much those that leave may be.

        Returns:
            As few as there are, the least wanted first; ``None`` where too much that is wanted more would have to go.
        """
        chosen: list[PooledModel] = []
        excess = self.bytes + needed - self.capacity
        for model in sorted(self.idle(), key=lambda one: wanted.get(one.key, 0.0)):
            if excess <= 0 or wanted.get(model.key, 0.0) >= below:
                break
            chosen.append(model)
            excess -= model.bytes
        return None if excess > 0 else chosen
