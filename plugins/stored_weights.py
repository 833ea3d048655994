"""Weights and operands in the kernels' precisions: their bytes in memory, and their values after rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.grids import encode_weight
from wavernn_trt.export.operators import PRECISIONS, Operand, Precision, padded_weight
from wavernn_trt.plugins.precisions import WeightPrecision

HALF_OF_CODE = 256.0
"""Ratio of an e4m3 value to the fp16 number with the same bits shifted, which the kernels multiply."""
_TYPES: dict[Precision, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class StoredWeight:
    """A weight matrix [rows, columns] as the kernels read it."""

    values: NDArray[Any]
    """The stored numbers; ``fp8``: bits of e4m3 codes, as uint8."""
    scales: FloatArray | None
    """[rows], factors of the row sums in the kernels; ``fp8`` only."""


def round_to(values: NDArray[Any], precision: Precision) -> FloatArray:
    """Returns values as float32, rounded to the nearest number of a precision, ties to even.

    fp16 becomes infinite beyond 65504, as on a GPU. ``values`` has any type that `widen` accepts.
    """
    return widen(store(values, precision))


def store(values: NDArray[Any], precision: Precision) -> NDArray[Any]:
    """Returns values as stored in memory: float32, float16, or the bits of bfloat16 as uint16.

    Raises:
        ValueError: unknown precision.
    """
    if precision not in _TYPES:
        raise ValueError(f"precision: found {precision!r}, expected one of {', '.join(PRECISIONS)}")
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond fp16, and NaN as bf16
        stored: NDArray[Any] = widen(values).astype(_TYPES[precision], copy=False)
    return stored.view(np.uint16) if precision == "bf16" else stored


def widen(values: NDArray[Any]) -> FloatArray:
    """Converts float32, float16, bfloat16 (ml_dtypes) or the bits of bfloat16 (uint16) to float32, exactly.

    Raises:
        ValueError: another type; float64 because it would be rounded twice.
    """
    if values.dtype == np.uint16:
        values = values.view(ml_dtypes.bfloat16)
    if values.dtype not in map(np.dtype, _TYPES.values()):
        raise ValueError(f"found values of type {values.dtype}, expected float32, float16, bfloat16 or its uint16 bits")
    return values.astype(np.float32, copy=False)


def store_weight(weight: NDArray[Any], precision: WeightPrecision) -> StoredWeight:
    """Rounds a weight matrix [rows, columns] to a precision and returns it as stored in memory.

    ``fp8`` scales each row so that its largest magnitude becomes the largest number of e4m3.

    Raises:
        ValueError: ``fp8``, and values that are not finite.
    """
    if precision != "fp8":
        return StoredWeight(store(weight, precision), None)
    codes, scales = encode_weight(widen(weight), "fp8")
    return StoredWeight(codes.view(np.uint8), scales * np.float32(HALF_OF_CODE))


def round_weight(weight: NDArray[Any], precision: WeightPrecision) -> FloatArray:
    """Returns the values of a weight matrix after storage in a precision, float32."""
    if precision != "fp8":
        return round_to(weight, precision)
    codes, scales = encode_weight(widen(weight), "fp8")
    rounded: FloatArray = codes.astype(np.float32) * scales[:, None]
    return rounded


def store_operands(
    operands: Iterable[Operand], arrays: Mapping[str, NDArray[Any]], precision: WeightPrecision
) -> tuple[list[NDArray[Any]], list[FloatArray]]:
    """Returns the operands of a chunk as the kernels read them, and the scales of the weights among them.

    Rows of weights are padded with zeros; see `wavernn_trt.export.operators.padded_weight`.

    Args:
        operands: the operands, in the order of the results.
        arrays: arrays by the names of the operands.
        precision: precision of the weights.

    Raises:
        ValueError: a weight has values beyond the range of the precision.
    """
    values, scales = [], []
    for operand in operands:
        array = np.ascontiguousarray(arrays[operand.name])
        if operand.kind != "weight":
            values.append(array)
            continue
        stored = store_weight(array, precision)
        if stored.scales is not None:
            scales.append(stored.scales)
        elif np.isfinite(array).all() and not np.isfinite(widen(stored.values)).all():
            raise ValueError(
                f"weight {operand.name}: found values up to {np.abs(array).max():g}, which {precision} cannot hold"
            )
        padding = int(padded_weight(operand).shape[1]) - array.shape[1]
        values.append(np.pad(stored.values, ((0, 0), (0, padding))))
    return values, scales
