"""The operators for ``onnx.reference.ReferenceEvaluator``, which then runs a decoder through the numpy references.

Its ``new_ops`` come before the functions that a model carries, so that these are what runs::

    ReferenceEvaluator("voices/mine/decoder.onnx", new_ops=list(OPERATORS))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper
from onnx.reference.op_run import OpRun

from wavernn_trt.export.operators import DOMAIN, GRU_OPERATOR, Precision, SequenceShape
from wavernn_trt.plugins.operand_shapes import gru_operands, match_shapes
from wavernn_trt.plugins.reference import decode_sequence, gru_cell

_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class CustomGRUPlugin(OpRun):
    """One GRU cell, in the precision that its recurrent weight is stored in."""

    op_domain = DOMAIN

    def _run(self, *arrays: NDArray[Any], hidden_size: int, **_: Any) -> tuple[NDArray[np.float32]]:
        match_shapes(GRU_OPERATOR, gru_operands(hidden_size), [array.shape for array in arrays])
        gates, hidden, weight, bias = arrays
        return (gru_cell(gates, hidden, weight, bias, precision_of([weight.dtype])),)


class WaveRNNSequencePlugin(OpRun):
    """All steps of a chunk, in the precision that the weights are stored in."""

    op_domain = DOMAIN

    def _run(self, *arrays: NDArray[Any], **_: Any) -> tuple[NDArray[Any], ...]:
        attributes = {item.name: helper.get_attribute_value(item) for item in self.onnx_node.attribute}
        shape = SequenceShape.from_attributes(attributes)
        operands = shape.inputs()
        match_shapes(type(self).__name__, shape.inputs_of_node(), [array.shape for array in arrays])
        inputs = {
            operand.name: array[:, : operand.shape[1]] if operand.kind == "weight" else array
            for operand, array in zip(operands, arrays, strict=True)
        }
        precision = precision_of([inputs[operand.name].dtype for operand in operands if operand.kind == "weight"])
        results = decode_sequence(shape, inputs, precision)
        return tuple(results[operand.name] for operand in shape.outputs_of_node())


class MaterialisePlugin(OpRun):
    """The same rows again."""

    op_domain = DOMAIN

    def _run(self, rows: NDArray[np.float32], **_: Any) -> tuple[NDArray[np.float32]]:
        return (rows,)


OPERATORS: tuple[type[OpRun], ...] = (CustomGRUPlugin, WaveRNNSequencePlugin, MaterialisePlugin)
"""For ``ReferenceEvaluator(model, new_ops=list(OPERATORS))``."""


def precision_of(dtypes: Iterable[np.dtype[Any]]) -> Precision:
    """The precision that weights of these types are stored in.

    Raises:
        ValueError: a type that stands for none, or several precisions.
    """
    names = sorted({dtype.name for dtype in dtypes})
    if len(names) != 1 or names[0] not in _PRECISIONS:
        raise ValueError(f"found weights of type {', '.join(names)}, expected one of {', '.join(_PRECISIONS)} for all")
    return _PRECISIONS[names[0]]
