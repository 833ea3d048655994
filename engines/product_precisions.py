"""The precision of a step's matrix products, read from a graph rather than from the requested settings.

A product is identified by the name of its weight. Its precision is the type of its operands: eight bits where weight
and activations come from a DequantizeLinear, the pattern of which TensorRT makes eight-bit products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from wavernn_trt.export.operators import GRU_OPERATOR, SEQUENCE_OPERATOR

_PASSING = {"Cast", "CAST", "Identity", "IDENTITY", "Reshape", "Transpose", "SHUFFLE"}
_DEQUANTIZING = {"DequantizeLinear", "DEQUANTIZE"}
_MULTIPLYING = {"Gemm", "MatMul", "MATRIX_MULTIPLY", "PLUGIN_V3", GRU_OPERATOR, SEQUENCE_OPERATOR}
_CONSTANT = "CONSTANT"
_NAMES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "FLOAT16": "fp16",
    "BF16": "bf16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "FLOAT8E4M3FN": "fp8",
}
"""Names of precisions by TensorRT's and ONNX's names of data types."""


@dataclass(frozen=True)
class _Node:
    """A node of an ONNX graph or a layer of a TensorRT network."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    types: tuple[str, ...]
    """Types of the inputs; of a constant, its own type."""


def precisions_in_network(network: Any, weights: Mapping[str, str]) -> dict[str, str]:
    """Returns the precision of each product in a network that TensorRT parsed.

    Args:
        network: an ``INetworkDefinition``.
        weights: products' names by the prefix of their weight's name.

    Returns:
        By product, in the weights' order: ``int8`` or ``fp8``, ``int8 weights`` where only the weights are, or the
        operands' type: ``fp32``, ``fp16``, ``bf16``. Several, joined by "and", where the steps differ.
    """
    makers: dict[str, _Node] = {}
    multiplying = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors = [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i)) is not None]
        made = [layer.get_output(i) for i in range(layer.num_outputs)]
        types = made if layer.type.name == _CONSTANT else tensors
        node = _Node(
            layer.type.name, layer.name, tuple(one.name for one in tensors), tuple(one.dtype.name for one in types)
        )
        makers.update({one.name: node for one in made})
        if node.kind in _MULTIPLYING:
            multiplying.append(node)
    return _precisions(makers, multiplying, weights)


def precisions_in_graph(model: onnx.ModelProto, weights: Mapping[str, str]) -> dict[str, str]:
    """Returns the same for an ONNX graph; external weights need not be loaded."""
    constants = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    makers = {name: _Node(_CONSTANT, name, (), (kind,)) for name, kind in constants.items()}
    multiplying = []
    for one in model.graph.node:
        node = _Node(one.op_type, one.name, tuple(one.input), tuple(constants.get(name, "") for name in one.input))
        makers.update({name: node for name in one.output})
        if node.kind in _MULTIPLYING:
            multiplying.append(node)
    return _precisions(makers, multiplying, weights)


def _precisions(makers: Mapping[str, _Node], multiplying: list[_Node], weights: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for node in multiplying:
        traced = [_trace(name, kind, makers) for name, kind in zip(node.inputs, node.types, strict=True)]
        activations = {grid for constant, _, grid in traced if constant is None and grid}
        for constant, stored, grid in traced:
            product = None if constant is None else _product_of(constant, weights)
            if product is not None:
                eight = grid if grid in activations else f"{grid} weights"
                found.setdefault(product, set()).add(eight if grid else stored)
    return {name: " and ".join(sorted(found[name])) for name in dict.fromkeys(weights.values()) if name in found}


def _trace(name: str, kind: str, makers: Mapping[str, _Node]) -> tuple[str | None, str, str]:
    """Returns an operand's origin: the name of its constant if it has one, its type, and its quantised type."""
    grid = ""
    while (node := makers.get(name)) is not None and node.inputs and node.kind in _PASSING | _DEQUANTIZING:
        if node.kind in _DEQUANTIZING and not grid:
            quantize = makers.get(node.inputs[0])
            zero_point = quantize.types[2] if quantize is not None and len(quantize.types) > 2 else ""
            grid = node.types[0] or zero_point
        name = node.inputs[0]
    constant = node if node is not None and node.kind == _CONSTANT else None
    stored = kind or (constant.types[0] if constant is not None else "")
    return (None if constant is None else constant.name), _NAMES.get(stored, stored.lower()), _NAMES.get(grid, grid)


def _product_of(constant: str, weights: Mapping[str, str]) -> str | None:
    """Returns the product of a constant whose name begins with a weight's name, followed by a dot or nothing."""
    return next((product for weight, product in weights.items() if f"{constant}.".startswith(f"{weight}.")), None)
