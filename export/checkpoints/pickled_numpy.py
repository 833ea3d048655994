"""Reads numpy values inside a checkpoint's pickle without numpy's own unpickling.

``torch.load(weights_only=True)`` refuses numpy's classes, so that one loss stored as ``numpy.float64`` makes a file
unreadable. `STAND_INS` replace numpy's classes and functions while such a file is loaded, and only store their
arguments. The values are built afterwards, from plain numeric types only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMERIC = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|[SU]\d{1,4})")
_KINDS = ("bool_", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Numpy 1 and numpy 2."""


class StoredDtype:
    """The arguments of a ``numpy.dtype``."""

    text: object = ""
    order: object = "="

    def __init__(self, text: object = "", *_: object) -> None:
        self.text = text  # such as ``f8``

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            self.order = state[1]  # nothing else of the state is used

    def dtype(self) -> np.dtype[Any] | None:
        """Returns the type; ``None`` where it is neither a number nor a string."""
        if not isinstance(self.text, str) or not _NUMERIC.fullmatch(self.text):
            return None
        dtype = np.dtype(self.text)
        return dtype.newbyteorder(self.order) if self.order in ("<", ">") else dtype


class StoredArray:
    """The arguments of a ``numpy.ndarray``."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state  # version, shape, type, order, bytes

    def array(self) -> NDArray[Any] | None:
        """Returns a copy of the array; ``None`` where it is damaged or not numeric."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, fortran, data = self.state
        if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
            return None
        values = _from_bytes(dtype, data)
        if values is None or len(values) != math.prod(shape):
            return None
        return values.reshape(shape, order="F" if fortran is True else "C")


class _Inert:
    """Replaces a type without values: a numpy scalar type, or the factory of a ``defaultdict``."""

    def __init__(self, *_: object) -> None:
        pass


def _from_bytes(dtype: object, data: object) -> NDArray[Any] | None:
    resolved = dtype.dtype() if isinstance(dtype, StoredDtype) else dtype
    if not isinstance(resolved, np.dtype) or resolved.hasobject or not resolved.itemsize:
        return None
    if isinstance(data, str):  # bytes that Python 2 pickled
        data = data.encode("latin1", "replace")
    if not isinstance(data, bytes) or len(data) % resolved.itemsize:
        return None
    return np.frombuffer(data, resolved).astype(resolved.newbyteorder("="))


def _scalar(dtype: object = None, data: object = None, *_: object) -> object:
    values = _from_bytes(dtype, data)
    return values[0].item() if values is not None and len(values) == 1 else _Inert()


def _defaultdict(*_: object) -> dict[Any, Any]:
    return {}


def _class(path: str, base: type) -> type:
    module, _, name = path.rpartition(".")
    return type(name, (base,), {"__module__": module})


def _function(path: str, body: Callable[..., object]) -> Callable[..., object]:
    def stand_in(*arguments: object) -> object:
        return body(*arguments)

    stand_in.__module__, _, stand_in.__name__ = path.rpartition(".")
    stand_in.__qualname__ = stand_in.__name__
    return stand_in


def _stand_ins() -> list[Callable[..., object]]:
    array = _class("numpy.ndarray", StoredArray)
    found: list[Callable[..., object]] = [array, _class("numpy.dtype", StoredDtype)]
    for module in _MULTIARRAY:
        found.append(_function(f"{module}._reconstruct", lambda *_: array()))
        found.append(_function(f"{module}.scalar", _scalar))
    inert = [f"numpy.{kind}" for kind in (*_KINDS, "float32", "float64")]
    inert += [f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "tuple", "bool")]
    found += [_class(path, _Inert) for path in inert]
    return [*found, _function("collections.defaultdict", _defaultdict)]


STAND_INS: list[Callable[..., object]] = _stand_ins()
"""For ``torch.serialization.safe_globals``; none of them runs code of the file."""
STOOD_FOR = frozenset(f"{each.__module__}.{each.__qualname__}" for each in STAND_INS)
"""Names of the replaced classes and functions."""
