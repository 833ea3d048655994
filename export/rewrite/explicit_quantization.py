"""Pass: quantised products between QuantizeLinear and DequantizeLinear; what TensorRT reads precisions from.

TensorRT has no calibrators any more: a product runs in eight bits where both of its operands come out of a
DequantizeLinear. Weights are constants of the grid, with a scale for each output channel; activations have one scale.
Of products whose activations stay as they are, only the weight is dequantised.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.graph_edit import add_node
from wavernn_trt.export.grids import encode_weight
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.quantization import LARGEST, Product, Quantization
from wavernn_trt.export.rewrite.products import find_products


def quantize_products(networks: Networks, model: ModelConfig, quantization: Quantization) -> Networks:
    """Puts quantised products between QuantizeLinear and DequantizeLinear.

    Args:
        networks: with the conditioning hoisted and the gates not fused.
        model: its configuration.
        quantization: which products, and how; what is no grid of eight bits is left to the engine's own precision.

    Raises:
        PatternError: the step has other products than such a model's.
        ValueError: weights that are not finite.
    """
    step = networks.step.copy()
    for name, node in find_products(step, model).items():
        product = quantization.products.get(name)
        if product is not None and product.grid in LARGEST:
            _quantize(step, node, product)
    step.cleanup(remove_unused_graph_inputs=False).toposort()
    return dataclasses.replace(networks, step=step)


def _quantize(step: gs.Graph, node: gs.Node, product: Product) -> None:
    source, weight, _ = node.inputs
    name, kind = node.name, np.int8 if product.grid == "int8" else ml_dtypes.float8_e4m3fn
    by_output, scales = encode_weight(weight.values, product.grid)
    codes = gs.Constant(f"{weight.name}.{product.grid}", np.ascontiguousarray(by_output.T))  # [K, N]
    operands = [
        codes,
        gs.Constant(f"{weight.name}.scales", scales),
        gs.Constant(f"{weight.name}.{product.grid}_zeros", np.zeros(len(scales), kind)),
    ]
    node.inputs[1] = add_node(step, "DequantizeLinear", operands, f"{name}.weight", axis=1)
    node.attrs["transB"] = 0
    if product.weights_only:
        return
    scale = gs.Constant(f"{name}.activation_scale", np.array(product.scale, np.float32))
    zero = gs.Constant(f"{name}.signed_zero", np.zeros((), kind))
    codes = add_node(step, "QuantizeLinear", [source, scale, zero], f"{name}.activation_codes")
    node.inputs[0] = add_node(step, "DequantizeLinear", [codes, scale, zero], f"{name}.activations")
