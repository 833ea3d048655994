"""Pass: matrix products in a lower precision. Gates, table, softmax and sampling stay in float32.

TensorRT's networks are strongly typed: a product runs in the type of its operands. Weights become constants of the
lower type, activations are cast before a product and back after it, and biases are added in float32. A
`CustomGRUPlugin` takes its recurrent weight in the lower type and casts inside.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from wavernn_trt.export.networks import Networks, add_node
from wavernn_trt.export.operators import GRU_OPERATOR, Precision

ONNX_TYPES: dict[Precision, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
"""Types of a product's operands."""
_LARGEST = {"fp16": float(np.finfo(np.float16).max)}


class PrecisionError(ValueError):
    """Weights exceed the range of the requested precision."""


def lower_precision(networks: Networks, precision: Precision) -> Networks:
    """Converts the step's products to ``precision``; the conditioner, which runs once per frame, stays in float32.

    Args:
        networks: with fused gates.
        precision: ``fp32`` changes nothing.

    Raises:
        PrecisionError: a weight exceeds fp16's range.
    """
    if precision == "fp32":
        return networks
    step = networks.step.copy()
    for node in list(step.nodes):
        if node.op == "Gemm" and isinstance(node.inputs[1], gs.Constant):
            _lower_product(step, node, precision)
        elif node.op == GRU_OPERATOR:
            weight = node.inputs[2]
            node.inputs[2] = weight_constant(weight.name, weight.values, precision)
    step.cleanup(remove_unused_graph_inputs=False).toposort()
    return dataclasses.replace(networks, step=step)


def weight_constant(name: str, values: NDArray[np.float32], precision: Precision) -> gs.Constant:
    """Returns a constant of float32 values, stored in a precision.

    Raises:
        PrecisionError: a value exceeds fp16's range.
    """
    values = np.ascontiguousarray(values, np.float32)
    if precision == "fp32":
        return gs.Constant(name, values)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST.get(precision, np.inf):
        raise PrecisionError(
            f"weight {name}: found values up to {largest:g}, fp16 ends at {_LARGEST['fp16']:g}; use bf16 or fp32"
        )
    return gs.Constant(f"{name}.{precision}", values.astype(np.float16 if precision == "fp16" else ml_dtypes.bfloat16))


def _lower_product(step: gs.Graph, node: gs.Node, precision: Precision) -> None:
    source, weight, *bias = node.inputs
    output, transposed = node.outputs[0], int(node.attrs.get("transB", 0))
    name = output.name
    node.inputs.clear()
    node.outputs.clear()
    low = add_node(step, "Cast", [source], f"{name}.low_input", to=ONNX_TYPES[precision])
    matrix = weight_constant(weight.name, weight.values, precision)
    product = add_node(step, "Gemm", [low, matrix], f"{name}.low_product", transB=transposed)
    raise_to = {"to": TensorProto.FLOAT}
    if not bias:
        step.nodes.append(gs.Node("Cast", f"{name}.product", raise_to, [product], [output]))
        return
    raised = add_node(step, "Cast", [product], f"{name}.product", **raise_to)
    step.nodes.append(gs.Node("Add", f"{name}.biased", {}, [raised, *bias], [output]))
