"""The plain values in a loaded checkpoint: its settings and counters, without tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from wavernn_trt.export.checkpoints.pickled_numpy import StoredArray, StoredDtype
from wavernn_trt.export.checkpoints.state_entries import is_optimizer

_DEEPEST = 20
_MOST = 100_000
_LONGEST = 4096
"""Longer lists are logs of a training, not settings."""
_LARGEST_ARRAY = 256
_NOTHING = object()


def plain_values(value: object, networks: frozenset[int] = frozenset()) -> tuple[dict[str, Any], bool]:
    """Text, numbers, booleans and ``None`` in mappings and lists; everything else is left out.

    Args:
        value: what a checkpoint holds.
        networks: ids of mappings whose arrays are weights.

    Returns:
        The values, with names as text and numpy's numbers as Python's; and whether there were few enough to read all.
    """
    reader = _Reader(networks)
    found = reader.read(value, 0) if isinstance(value, Mapping) else {}
    return found if isinstance(found, dict) else {}, reader.left > 0


class _Reader:
    def __init__(self, networks: frozenset[int]) -> None:
        self.left = _MOST
        self._networks = networks
        self._open: set[int] = set()

    def read(self, value: object, depth: int, arrays: bool = True) -> Any:
        self.left -= 1
        if self.left <= 0 or depth > _DEEPEST:
            return _NOTHING
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, StoredDtype):
            dtype = value.dtype()
            return _NOTHING if dtype is None else dtype.name
        if isinstance(value, StoredArray):
            value = value.array()
        if isinstance(value, np.ndarray):
            plain = value.dtype.kind in "biufSU" and value.size <= _LARGEST_ARRAY and arrays
            return value.tolist() if plain else _NOTHING
        if isinstance(value, Tensor) or id(value) in self._open or is_optimizer(value):
            return _NOTHING
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, depth)
            if isinstance(value, list | tuple | set | frozenset) and len(value) <= _LONGEST:
                if isinstance(value, set | frozenset):
                    value = sorted(value, key=str)
                items = [self.read(item, depth + 1, id(value) not in self._networks) for item in value]
                kept = [item for item in items if item is not _NOTHING]
                return kept if kept or not items else _NOTHING
        finally:
            self._open.discard(id(value))
        return _NOTHING

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        """A dictionary; nothing where all that was in it is left out."""
        arrays = id(value) not in self._networks
        items = {str(name): self.read(item, depth + 1, arrays) for name, item in value.items()}
        kept = {name: item for name, item in items.items() if item is not _NOTHING}
        return kept if kept or not items or depth == 0 else _NOTHING
