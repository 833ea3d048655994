"""Weights and operands in the kernels' precisions: how they lie in memory, and their values after rounding."""

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
"""The kernels read a code's bits as a half, which makes it smaller by this factor."""
_TYPES: dict[Precision, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class StoredWeight:
    """A matrix [rows, columns]."""

    values: NDArray[Any]
    """In memory; of ``fp8`` the bits of e4m3 codes, as uint8."""
    scales: FloatArray | None
    """[rows] factors of each row's sum in the kernels; only of ``fp8``."""


def round_to(values: NDArray[Any], precision: Precision) -> FloatArray:
    """Values as operands of a product: rounded to the nearest number of the precision, ties to even.

    Args:
        values: of any type that `widen` takes.
        precision: ``fp32`` changes nothing.

    Returns:
        float32; fp16 becomes infinite beyond 65504, as on a GPU.
    """
    return widen(store(values, precision))


def store(values: NDArray[Any], precision: Precision) -> NDArray[Any]:
    """Values as they lie in memory: float32, float16, or the bits of bfloat16 as uint16, which every upload takes.

    Raises:
        ValueError: no such precision.
    """
    if precision not in _TYPES:
        raise ValueError(f"precision: found {precision!r}, expected one of {', '.join(PRECISIONS)}")
    with np.errstate(over="ignore", invalid="ignore"):  # beyond fp16; NaN as bf16
        stored: NDArray[Any] = widen(values).astype(_TYPES[precision], copy=False)
    return stored.view(np.uint16) if precision == "bf16" else stored


def widen(values: NDArray[Any]) -> FloatArray:
    """Any stored type as float32, exactly: float32, float16, bfloat16 of ml_dtypes, or its bits as uint16.

    Raises:
        ValueError: another type. float64 is refused because it would be rounded twice.
    """
    if values.dtype == np.uint16:
        values = values.view(ml_dtypes.bfloat16)
    if values.dtype not in map(np.dtype, _TYPES.values()):
        raise ValueError(f"found values of type {values.dtype}, expected float32, float16, bfloat16 or its uint16 bits")
    return values.astype(np.float32, copy=False)


def store_weight(weight: NDArray[Any], precision: WeightPrecision) -> StoredWeight:
    """Rounds a matrix to the nearest that can be stored.

    Args:
        weight: [rows, columns], of a type that `widen` takes.
        precision: ``fp8`` scales each row so that its largest value becomes the largest of e4m3.

    Raises:
        ValueError: ``fp8`` of values that are not finite.
    """
    if precision != "fp8":
        return StoredWeight(store(weight, precision), None)
    codes, scales = encode_weight(widen(weight), "fp8")
    return StoredWeight(codes.view(np.uint8), scales * np.float32(HALF_OF_CODE))


def round_weight(weight: NDArray[Any], precision: WeightPrecision) -> FloatArray:
    """The values of a matrix after it was stored, float32."""
    if precision != "fp8":
        return round_to(weight, precision)
    codes, scales = encode_weight(widen(weight), "fp8")
    rounded: FloatArray = codes.astype(np.float32) * scales[:, None]
    return rounded


def store_operands(
    operands: Iterable[Operand], arrays: Mapping[str, NDArray[Any]], precision: WeightPrecision
) -> tuple[list[NDArray[Any]], list[FloatArray]]:
    """Operands as they lie in memory, and the scales of the weights among them, as kernels are given them.

    Rows of weights are padded with zeros; see `wavernn_trt.export.operators.padded_weight`.

    Args:
        operands: of a chunk.
        arrays: by the operands' names.
        precision: of the weights.

    Raises:
        ValueError: a weight has values that the precision does not hold.
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
