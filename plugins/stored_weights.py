"""Weight matrices as the kernels have them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import Operand, padded_weight
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.rounding import FloatArray, round_to, store, widen

LARGEST_CODE = 448.0
"""The largest number of e4m3."""
HALF_OF_CODE = 256.0
"""A code whose bits are taken for a half's is so much smaller."""


@dataclass(frozen=True)
class StoredWeight:
    """A matrix [rows, columns]."""

    values: NDArray[Any]
    """As they lie in memory; of ``fp8`` the codes, as uint8."""
    scales: FloatArray | None
    """[rows] what the kernels multiply a row's sum with; only of ``fp8``."""


def store_weight(weight: NDArray[Any], precision: WeightPrecision) -> StoredWeight:
    """Rounds a matrix to the nearest that can be stored.

    Args:
        weight: [rows, columns], of a type that `wavernn_trt.plugins.rounding.widen` takes.
        precision: ``fp8`` gives each row the scale that makes its largest value e4m3's largest.

    Raises:
        ValueError: ``fp8`` of values that are not finite.
    """
    if precision != "fp8":
        return StoredWeight(store(weight, precision), None)
    single = round_to(weight, "fp32")
    if not np.isfinite(single).all():
        raise ValueError("weights: found NaN or infinity, which fp8 cannot hold")
    scales = np.abs(single).max(axis=1, initial=0.0) / np.float32(LARGEST_CODE)
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    return StoredWeight(_encode(single / scales[:, None]), scales * np.float32(HALF_OF_CODE))


def round_weight(weight: NDArray[Any], precision: WeightPrecision) -> FloatArray:
    """A matrix as it is after being stored, in float32."""
    if precision != "fp8":
        return round_to(weight, precision)
    stored = store_weight(weight, precision)
    assert stored.scales is not None
    rounded: FloatArray = _CODES[stored.values] * (stored.scales / np.float32(HALF_OF_CODE))[:, None]
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


def _decode_all() -> FloatArray:
    """The numbers of all 256 codes; NaN's two stand for 480, and are never given."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return np.where(code & 128, -magnitude, magnitude).astype(np.float32)


_CODES = _decode_all()
_EDGES = (_CODES[:126] + _CODES[1:127]) / 2


def _encode(values: FloatArray) -> NDArray[np.uint8]:
    """The nearest codes, ties to even."""
    magnitude = np.abs(values)
    code = np.searchsorted(_EDGES, magnitude)
    tie = (code < len(_EDGES)) & (magnitude == _EDGES[np.minimum(code, len(_EDGES) - 1)])
    code += tie & (code % 2 == 1)
    return (code | np.where(np.signbit(values), 128, 0)).astype(np.uint8)
