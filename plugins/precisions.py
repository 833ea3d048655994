"""Precisions in which the kernels' weights are stored."""

from __future__ import annotations

from typing import Literal, get_args

from wavernn_trt.export.operators import Precision

WeightPrecision = Precision | Literal["fp8"]
"""``fp8``: e4m3 with a scale for each row, multiplied as fp16; half of fp16's memory. TensorRT engines do not support
it; only the kernels that are launched without TensorRT do."""
WEIGHT_PRECISIONS: tuple[WeightPrecision, ...] = (*get_args(Precision), "fp8")
"""All precisions; tests/plugins/harness/host_*.cpp number them in this order."""
WEIGHT_BYTES: dict[WeightPrecision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
"""Bytes of a stored weight."""


def engine_precision(precision: WeightPrecision) -> Precision:
    """Returns a precision unchanged, where plans or the sequence kernels do not support ``fp8``.

    Raises:
        ValueError: ``fp8``.
    """
    if precision == "fp8":
        raise ValueError("precision: found 'fp8', expected 'fp32', 'fp16' or 'bf16' here")
    return precision


def operand_precision(precision: WeightPrecision) -> Precision:
    """Returns the precision of the operands that weights are multiplied with."""
    return "fp16" if precision == "fp8" else precision
