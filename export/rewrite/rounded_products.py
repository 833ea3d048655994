"""Pass: quantised products for ONNX Runtime on a CPU, and its reverse.

An ``int8`` product becomes ONNX Runtime's ``MatMulIntegerToFloat``: integer operands, exact sums, then scales and bias.
Codes are uint8 around 128, which is int8's grid shifted: on x86 there are no fast int8 x int8 kernels, and uint8 x int8
kernels saturate at 16 bits on CPUs without VNNI. (ONNX Runtime also makes such nodes from ``DequantizeLinear`` around a
Gemm, but not inside a loop's body.)

It has no products for the other grids. There operands are rounded and multiplied in float32, which has the exact
results, to measure the loss, without the speed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.grids import encode_weight, round_weight
from wavernn_trt.export.networks import Networks, add_node
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization
from wavernn_trt.export.rewrite.products import find_products

ORT_DOMAIN = "com.microsoft"
INTEGER_OPERATOR = "MatMulIntegerToFloat"
MIDDLE = 128
"""The uint8 code of zero."""
_ROUNDING = ("Cast", "Div", "Mul")
_CASTS: dict[Grid, int] = {
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "fp8": TensorProto.FLOAT8E4M3FN,
}


def round_products(networks: Networks, model: ModelConfig, quantization: Quantization) -> Networks:
    """Rewrites the step's quantised products.

    Args:
        networks: with the conditioning hoisted and the gates not fused.
        model: its configuration.
        quantization: the products to round.

    Raises:
        PatternError: the step's products are not the model's.
        ValueError: weights that are not finite.
    """
    step = networks.step.copy()
    for name, node in find_products(step, model).items():
        product = quantization.products.get(name)
        if product is None:
            continue
        if product.grid == "int8" and not product.weights_only:
            _multiply_integers(step, node, product)
        else:
            weight = node.inputs[1]
            node.inputs[1] = gs.Constant(f"{weight.name}.{product.grid}_values", round_weight(weight.values, product))
            node.inputs[0] = _rounded(step, node, product)
    step.cleanup(remove_unused_graph_inputs=False).toposort()
    return dataclasses.replace(networks, step=step)


def restore_products(step: gs.Graph) -> None:
    """Converts a rewritten step's products back to Gemm nodes, in place; their weights stay rounded."""
    for node in list(step.nodes):
        if node.op == INTEGER_OPERATOR:
            codes, weight, _, scales, _, _, *bias = node.inputs
            source, output = codes.inputs[0].inputs[0], node.outputs[0]
            node.inputs.clear()
            node.outputs.clear()
            values = (weight.values.T.astype(np.float32) - MIDDLE) * scales.values[:, None]
            restored = gs.Constant(weight.name.removesuffix(".uint8"), np.ascontiguousarray(values))
            step.nodes.append(gs.Node("Gemm", node.name, {"transB": 1}, [source, restored, *bias], [output]))
        elif node.op == "Gemm":
            while node.inputs[0].inputs and node.inputs[0].inputs[0].op in _ROUNDING:
                node.inputs[0] = node.inputs[0].inputs[0].inputs[0]


def _multiply_integers(step: gs.Graph, node: gs.Node, product: Product) -> None:
    source, weight, *bias = node.inputs
    output, name = node.outputs[0], node.name
    node.inputs.clear()
    node.outputs.clear()
    by_output, scales = encode_weight(weight.values, product.grid)
    moved = (by_output.T.astype(np.int16) + MIDDLE).astype(np.uint8)  # [K, N]
    scale = gs.Constant(f"{name}.activation_scale", np.array(product.scale, np.float32))
    middle = gs.Constant(f"{name}.activation_zero", np.array(MIDDLE, np.uint8))
    codes = add_node(step, "QuantizeLinear", [source, scale, middle], f"{name}.activation_codes")
    operands = [
        codes,
        gs.Constant(f"{weight.name}.uint8", np.ascontiguousarray(moved)),
        scale,
        gs.Constant(f"{weight.name}.scales", scales),
        middle,
        middle,
        *bias,
    ]
    step.nodes.append(gs.Node(INTEGER_OPERATOR, name, {}, operands, [output], domain=ORT_DOMAIN))


def _rounded(step: gs.Graph, node: gs.Node, product: Product) -> gs.Tensor:
    source, name = node.inputs[0], node.name
    if product.weights_only:
        return source
    if product.grid not in LARGEST:
        return _there_and_back(step, source, name, _CASTS[product.grid])
    # Not QuantizeLinear: ONNX Runtime 1.32 removes the Relu before one of fp8, as if there were no negative codes.
    scale = gs.Constant(f"{name}.activation_scale", np.array(product.scale, np.float32))
    scaled = add_node(step, "Div", [source, scale], f"{name}.scaled_input")
    codes = _there_and_back(step, scaled, name, _CASTS[product.grid])
    return add_node(step, "Mul", [codes, scale], f"{name}.raised_input")


def _there_and_back(step: gs.Graph, source: gs.Tensor, name: str, onnx_type: int) -> gs.Tensor:
    low = add_node(step, "Cast", [source], f"{name}.low_input", to=onnx_type)
    return add_node(step, "Cast", [low], f"{name}.rounded_input", to=TensorProto.FLOAT)
