"""The compatibility report: the TensorRT layer of every node, and the nodes that TensorRT would refuse.

The table below lists, for the operators that this project writes, the layer and its conditions. An operator that is not
in the table is reported as a violation. Layers are those that TensorRT-RTX 1.7's ONNX parser made of these graphs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference

from wavernn_trt.export.operators import GRU_OPERATOR, MATERIALISE_OPERATOR, SEQUENCE_OPERATOR, SequenceShape
from wavernn_trt.export.rewrite import gru_function, materialise_rows

LONGEST_CONVOLUTION = 15
"""Longest supported kernel of a one-dimensional convolution; the families' kernels are 1 and 5 long."""

_BUILDABLE_TYPES = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.FLOAT8E4M3FN,
}

_GRIDS = {TensorProto.INT8, TensorProto.FLOAT8E4M3FN}
"""Types of quantised values."""


@dataclass(frozen=True)
class Violation:
    """A node that TensorRT would refuse, or compute differently than intended."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class OperatorRow:
    """One operator of a graph."""

    operator: str
    count: int
    layer: str
    """TensorRT's name of the layer."""
    constraint: str
    """TensorRT's conditions for it; empty where there are none."""
    violations: int


@dataclass(frozen=True)
class CompatibilityReport:
    """Operators and violations of one graph."""

    operators: tuple[OperatorRow, ...]
    violations: tuple[Violation, ...]


@dataclass(frozen=True)
class _Context:
    constants: frozenset[str]
    types: dict[str, int]
    shapes: dict[str, tuple[int | None, ...] | None]
    scalars: dict[str, NDArray[np.generic]]
    """Values of constants with one element."""
    dequantized: frozenset[str]
    """Outputs of DequantizeLinear nodes on constants."""


_Check = Callable[[onnx.NodeProto, _Context], str | None]


@dataclass(frozen=True)
class _Support:
    layer: str
    constraint: str = ""
    check: _Check | None = None


def _constant_table(node: onnx.NodeProto, context: _Context) -> str | None:
    if node.input[0] in context.constants or node.input[1] in context.constants:
        return None
    return "gathers from a table that is not constant at an index that is not constant"


def _constant_weight(node: onnx.NodeProto, context: _Context) -> str | None:
    constant = node.input[1] in context.constants or node.input[1] in context.dequantized
    return None if constant else "its weight is not constant, so no fast layout is chosen for it"


def _short_convolution(node: onnx.NodeProto, context: _Context) -> str | None:
    shape = context.shapes.get(node.input[1])
    if shape is None or None in shape:
        return "its kernel's shape is not known"
    longest = max(int(size or 0) for size in shape[2:])
    too_long = f"its kernel is {longest} long, at most {LONGEST_CONVOLUTION} is allowed"
    return too_long if longest > LONGEST_CONVOLUTION else None


def _float32(node: onnx.NodeProto, context: _Context) -> str | None:
    found = context.types.get(node.output[0])
    if found == TensorProto.FLOAT:
        return None
    name = TensorProto.DataType.Name(found) if found is not None else "unknown"
    return f"computes in {name}; gates drift over thousands of steps unless they are float32"


def _plugin(*attributes: str) -> _Check:
    def check(node: onnx.NodeProto, context: _Context) -> str | None:
        missing = [name for name in attributes if name not in {attribute.name for attribute in node.attribute}]
        if missing:
            return f"lacks the attribute {missing[0]}, so the plugin is not found"
        return _float32(node, context)

    return check


def _sequence(node: onnx.NodeProto, context: _Context) -> str | None:
    try:
        shape = SequenceShape.from_attributes({a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})
    except ValueError as error:
        return str(error)
    expected = len(shape.inputs())
    return None if len(node.input) == expected else f"has {len(node.input)} inputs, expected {expected}"


def _grid(node: onnx.NodeProto, context: _Context) -> str | None:
    codes = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    found = context.types.get(codes)
    if found not in _GRIDS:
        name = TensorProto.DataType.Name(found) if found is not None else "unknown"
        return f"its codes are {name}, expected INT8 or FLOAT8E4M3FN"
    if node.input[1] not in context.constants:
        return "its scale is not constant"
    if context.shapes.get(node.input[1]) not in ((), (1,)) and node.input[0] not in context.constants:
        return "has a scale for each channel of activations; only weights may have that"
    zero = node.input[2] if len(node.input) > 2 else ""
    if zero and (zero not in context.scalars or float(context.scalars[zero].reshape(()).astype(np.float32)) != 0):
        return "its zero point is not a constant zero"
    return None


_CONTROL_FLOW = {"If", "Loop", "Scan"}
_REFUSED = {"Multinomial": "TensorRT has no layer for it; samples are drawn from given random numbers instead"}
_TABLE = "a constant table or a constant index"
_STATIC = "static shapes"
_SCALED = "INT8 or FP8, zero points of zero, constant scales; one for each channel of weights only"

OPERATORS: dict[str, _Support] = {
    GRU_OPERATOR: _Support(
        "PluginV3", "gates and state in float32; its four attributes", _plugin(*gru_function.ATTRIBUTES)
    ),
    MATERIALISE_OPERATOR: _Support("PluginV3", "float32; its two attributes", _plugin(*materialise_rows.ATTRIBUTES)),
    SEQUENCE_OPERATOR: _Support("PluginV3", "a model of the shape in its attributes", _sequence),
    "Add": _Support("ElementWise (sum)"),
    "ArgMax": _Support("TopK, k = 1"),
    "BatchNormalization": _Support("Scale"),
    "Cast": _Support("Cast"),
    "Clip": _Support("Activation (clip)"),
    "Concat": _Support("Concatenation"),
    "Conv": _Support("Convolution", f"kernel at most {LONGEST_CONVOLUTION} long", _short_convolution),
    "Cos": _Support("Unary (cos)"),
    "CumSum": _Support("Cumulative (sum)"),
    "DequantizeLinear": _Support("Dequantize", _SCALED, _grid),
    "Div": _Support("ElementWise (div)"),
    "Exp": _Support("Unary (exp)"),
    "Expand": _Support("Slice (broadcast)"),
    "GRU": _Support("Loop with a recurrence", "conditioner only: it runs once an utterance"),
    "Gather": _Support("Gather", _TABLE, _constant_table),
    "GatherElements": _Support("Gather (elements)"),
    "GatherND": _Support("Gather (ND)"),
    "Gemm": _Support("MatrixMultiply and ElementWise", "constant weight", _constant_weight),
    "Greater": _Support("ElementWise (greater)"),
    "Identity": _Support("Identity"),
    "Log": _Support("Unary (log)"),
    "MatMul": _Support("MatrixMultiply"),
    "Max": _Support("ElementWise (max)"),
    "Min": _Support("ElementWise (min)"),
    "Mul": _Support("ElementWise (prod)"),
    "Neg": _Support("Unary (neg)"),
    "Pad": _Support("Slice (fill)"),
    "Pow": _Support("ElementWise (pow)"),
    "QuantizeLinear": _Support("Quantize", _SCALED, _grid),
    "Relu": _Support("Activation (ReLU)"),
    "Reshape": _Support("Shuffle"),
    "Shape": _Support("Shape", "evaluated at build time where shapes are static"),
    "Sigmoid": _Support("Activation (sigmoid)", "float32", _float32),
    "Slice": _Support("Slice"),
    "Softmax": _Support("SoftMax", "float32", _float32),
    "Split": _Support("Slice, one for each output"),
    "Sqrt": _Support("Unary (sqrt)"),
    "Squeeze": _Support("Squeeze"),
    "Sub": _Support("ElementWise (sub)"),
    "Tanh": _Support("Activation (tanh)", "float32", _float32),
    "Transpose": _Support("Shuffle"),
    "Unsqueeze": _Support("Unsqueeze"),
}


def compatibility_report(model: onnx.ModelProto, *, static: bool) -> CompatibilityReport:
    """Checks every node of a graph.

    Args:
        model: the graph; external weights need not be loaded.
        static: whether every shape must be static; true for decoders, false for conditioners (dynamic frames).
    """
    context = _context(model)
    violations = []
    for node in model.graph.node:
        violations += [Violation(node.name, node.op_type, reason) for reason in _violations(node, context, static)]
    for value in (*model.graph.input, *model.graph.output):
        if static and any(size is None for size in context.shapes[value.name] or (None,)):
            violations.append(Violation(value.name, "graph input or output", "its shape is not static"))
    counts = Counter(node.op_type for node in model.graph.node)
    bad = Counter(violation.operator for violation in violations)
    rows = []
    for operator, count in sorted(counts.items()):
        support = OPERATORS.get(operator, _Support("none known", _STATIC if operator in _CONTROL_FLOW else ""))
        rows.append(OperatorRow(operator, count, support.layer, support.constraint, bad[operator]))
    return CompatibilityReport(tuple(rows), tuple(violations))


def _violations(node: onnx.NodeProto, context: _Context, static: bool) -> list[str]:
    if node.op_type in _CONTROL_FLOW:
        return ["control flow, which keeps a chunk from being planned as one static graph"]
    support = OPERATORS.get(node.op_type)
    if support is None:
        return [_REFUSED.get(node.op_type, "no TensorRT layer is known for it")]
    reasons = []
    if support.check is not None and (reason := support.check(node, context)):
        reasons.append(reason)
    for name in node.output:
        if name not in context.types:
            reasons.append(f"the type of its output {name} cannot be inferred")
        elif context.types[name] not in _BUILDABLE_TYPES:
            reasons.append(
                f"its output is {TensorProto.DataType.Name(context.types[name])}, which TensorRT does not support"
            )
        shape = context.shapes.get(name)
        if static and (shape is None or None in shape):
            reasons.append(f"the shape of its output {name} is not static")
    return reasons


def _context(model: onnx.ModelProto) -> _Context:
    # Shapes and types come from the initializers' declarations, so external weights are not needed.
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    types: dict[str, int] = {}
    shapes: dict[str, tuple[int | None, ...] | None] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
        shapes[value.name] = sizes if tensor.HasField("shape") else None
    for initializer in inferred.initializer:
        types[initializer.name] = initializer.data_type
        shapes[initializer.name] = tuple(initializer.dims)
    constants = {initializer.name for initializer in inferred.initializer}
    constants |= {node.output[0] for node in inferred.node if node.op_type == "Constant"}
    scalars = {
        initializer.name: numpy_helper.to_array(initializer)
        for initializer in inferred.initializer
        if initializer.data_location != TensorProto.EXTERNAL and math.prod(initializer.dims) == 1
    }
    dequantized = {
        node.output[0] for node in inferred.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    # A weight that is cast before its product is still a weight.
    dequantized |= {node.output[0] for node in inferred.node if node.op_type == "Cast" and node.input[0] in dequantized}
    return _Context(frozenset(constants), types, shapes, scalars, frozenset(dequantized))
