"""Pass: quantised products with QuantizeLinear and DequantizeLinear nodes, from which TensorRT reads precisions.

A product runs in eight bits where both of its operands come from a DequantizeLinear. Weights are constants of the grid
with a scale for each output channel; activations have one scale. Where only the weights are rounded, only they are
dequantised, and the product runs in the engine's precision.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.grids import encode_weight
from wavernn_trt.export.networks import Networks, add_node
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.quantization import LARGEST, Product, Quantization
from wavernn_trt.export.rewrite.precision import ONNX_TYPES
from wavernn_trt.export.rewrite.products import find_products


def quantize_products(
    networks: Networks, model: ModelConfig, quantization: Quantization, precision: Precision = "fp32"
) -> Networks:
    """Adds QuantizeLinear and DequantizeLinear nodes around eight-bit products.

    Args:
        networks: with the conditioning hoisted and the gates not fused.
        model: its configuration.
        quantization: the products; other than eight-bit grids are left to the engine's precision.
        precision: the engine's precision, for products of which only the weights are rounded.

    Raises:
        PatternError: the step's products are not the model's.
        ValueError: weights that are not finite.
    """
    step = networks.step.copy()
    for name, node in find_products(step, model).items():
        product = quantization.products.get(name)
        if product is not None and product.grid in LARGEST:
            _quantize(step, node, product, precision)
    step.cleanup(remove_unused_graph_inputs=False).toposort()
    return dataclasses.replace(networks, step=step)


def quantized_layers(quantization: Quantization) -> set[int]:
    """Returns the GRU layers whose recurrent product TensorRT must see, which a fused cell would hide."""
    return {
        int(name.removeprefix("recurrent_"))
        for name, product in quantization.products.items()
        if name.startswith("recurrent_") and product.grid in LARGEST
    }


def _quantize(step: gs.Graph, node: gs.Node, product: Product, precision: Precision) -> None:
    source, weight, *_ = node.inputs  # and a bias, unless it was hoisted with the conditioning
    name, kind = node.name, np.int8 if product.grid == "int8" else ml_dtypes.float8_e4m3fn
    by_output, scales = encode_weight(weight.values, product.grid)
    codes = gs.Constant(f"{weight.name}.{product.grid}", np.ascontiguousarray(by_output.T))  # [K, N]
    channels = gs.Constant(f"{weight.name}.scales", scales)
    node.inputs[1] = add_node(step, "DequantizeLinear", [codes, channels], f"{name}.weight", axis=1)
    node.attrs["transB"] = 0
    if product.weights_only:
        if precision != "fp32":
            _lower(step, node, precision)
        return
    scale = gs.Constant(f"{name}.activation_scale", np.array(product.scale, np.float32))
    zero = gs.Constant(f"{name}.signed_zero", np.zeros((), kind))
    quantized = add_node(step, "QuantizeLinear", [source, scale, zero], f"{name}.activation_codes")
    node.inputs[0] = add_node(step, "DequantizeLinear", [quantized, scale, zero], f"{name}.activations")


def _lower(step: gs.Graph, node: gs.Node, precision: Precision) -> None:
    """Multiplies in ``precision`` like `wavernn_trt.export.rewrite.precision`; the bias is added in float32."""
    source, weight, *bias = node.inputs
    output, name = node.outputs[0], node.name
    node.inputs.clear()
    node.outputs.clear()
    # Cast after the dequantisation: fp16 scales would be subnormal where a channel's weights are small.
    operands = [
        add_node(step, "Cast", [tensor], f"{name}.low_{part}", to=ONNX_TYPES[precision])
        for part, tensor in (("input", source), ("weight", weight))
    ]
    product = add_node(step, "Gemm", operands, f"{name}.low_product")
    raise_to = {"to": TensorProto.FLOAT}
    if not bias:
        step.nodes.append(gs.Node("Cast", f"{name}.product", raise_to, [product], [output]))
        return
    raised = add_node(step, "Cast", [product], f"{name}.product", **raise_to)
    step.nodes.append(gs.Node("Add", f"{name}.biased", {}, [raised, *bias], [output]))
