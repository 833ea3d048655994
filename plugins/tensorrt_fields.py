"""A node's attributes as TensorRT hands them over: plugin fields, each an int32 array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRECISION_FIELD = "precision"
"""Beside the attributes in a plan: an index into `wavernn_trt.export.operators.PRECISIONS`."""

_NOTHING = np.zeros(0, np.int32)  # a field points into its array and does not keep it


def field_names(trt: Any, names: Iterable[str]) -> Any:
    """The fields that a creator asks the parser for, without values."""
    return trt.PluginFieldCollection([trt.PluginField(name, _NOTHING, trt.PluginFieldType.INT32) for name in names])


def write_fields(trt: Any, values: Mapping[str, int | Sequence[int]]) -> tuple[Any, list[NDArray[np.int32]]]:
    """Values as a collection of fields, and the arrays that it points to, which must outlive it."""
    arrays = [np.array(value, np.int32).reshape(-1) for value in values.values()]
    fields = [
        trt.PluginField(name, array, trt.PluginFieldType.INT32) for name, array in zip(values, arrays, strict=True)
    ]
    return trt.PluginFieldCollection(fields), arrays


def read_fields(fields: Iterable[Any]) -> dict[str, list[int]]:
    """The reverse of `write_fields`.

    Raises:
        ValueError: a field does not hold integers; names it.
    """
    values = {}
    for field in fields:
        if field.type.name != "INT32":
            raise ValueError(
                f"attribute {field.name} holds {field.type.name}, expected integers; export the model again"
            )
        values[str(field.name)] = [int(value) for value in np.array(field.data, np.int32).reshape(-1)]
    return values
