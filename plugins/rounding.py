"""Numbers in an engine's precision, on float32 arrays: how fp16 and bf16 are emulated, and how weights are stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import PRECISIONS, Precision

FloatArray = NDArray[np.float32]

_STORED: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint16": "bf16"}


def round_to(values: NDArray[Any], precision: Precision) -> FloatArray:
    """Values as an operand of a product has them: rounded to the nearest number of the precision, ties to even.

    Args:
        values: of any type that `widen` takes.
        precision: ``fp32`` changes nothing.

    Returns:
        float32; fp16 becomes infinite beyond 65504, as on a GPU.
    """
    return widen(store(values, precision))


def store(values: NDArray[Any], precision: Precision) -> NDArray[Any]:
    """Values as they lie in memory: float32, float16, or bfloat16's 16 bits as uint16, since numpy has no such type.

    Raises:
        ValueError: no such precision.
    """
    single = widen(values)
    if precision == "fp32":
        return single
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return single.astype(np.float16)
    if precision != "bf16":
        raise ValueError(f"precision: found {precision!r}, expected one of {', '.join(PRECISIONS)}")
    bits = np.ascontiguousarray(single).view(np.uint32)
    # The upper half of a float32, after adding just under a half of the lower one; the last bit kept breaks ties.
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    # A NaN whose payload fills the lower half would be carried into an infinity or a zero.
    return np.where(np.isnan(single), bits >> 16 | 0x40, rounded).astype(np.uint16)


def widen(values: NDArray[Any]) -> FloatArray:
    """Any stored type as float32, exactly: float16, bfloat16 (as ml_dtypes has it, or as uint16 bits), float32.

    Raises:
        ValueError: another type. float64 is refused because it would be rounded twice.
    """
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    if values.dtype.name not in _STORED:
        raise ValueError(f"found values of type {values.dtype}, expected float32, float16, bfloat16 or its uint16 bits")
    return values.astype(np.float32, copy=False)


def precision_of(dtypes: Iterable[np.dtype[Any]]) -> Precision:
    """The precision that weights of these types are stored in; see `store`.

    Raises:
        ValueError: a type that stands for none, or several precisions.
    """
    names = sorted({dtype.name for dtype in dtypes})
    found: set[Precision] = {_STORED[name] for name in names if name in _STORED}
    if len(found) != 1 or any(name not in _STORED for name in names):
        raise ValueError(f"found weights of type {', '.join(names)}, expected one of {', '.join(_STORED)} for all")
    return found.pop()


def product(x: FloatArray, weight: FloatArray, precision: Precision) -> FloatArray:
    """``x @ weight.T`` as a tensor core takes it: operands in the precision, sums in float32.

    Args:
        x: [B, K], rounded here.
        weight: [N, K], rounded already.
        precision: of both.

    Returns:
        float32 [B, N].
    """
    result: FloatArray = round_to(x, precision) @ weight.T
    return result
