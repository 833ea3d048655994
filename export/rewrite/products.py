"""Finds a step's matrix products by the names of `wavernn_trt.export.quantization`."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.quantization import product_names
from wavernn_trt.export.rewrite.fuse_gates import PatternError


def find_products(step: gs.Graph, model: ModelConfig) -> dict[str, gs.Node]:
    """Returns the Gemm node of each product: (activations [B, K], weight [N, K], bias [N]) -> [B, N].

    A Gemm has no bias where it was hoisted with the conditioning.

    Args:
        step: with its conditioning hoisted and its gates not fused.
        model: its configuration.

    Raises:
        PatternError: the step's products are not the model's.
    """
    states = {f"hidden_{layer}": f"recurrent_{layer}" for layer in range(model.layers)}
    found: dict[str, gs.Node] = {}
    others = []
    for node in step.copy().toposort().nodes:
        if node.op == "Gemm" and isinstance(node.inputs[1], gs.Constant):
            name = states.get(node.inputs[0].name)
            if name is None:
                others.append(node.name)
            else:
                found[name] = node.name
    names = product_names(model)
    # The other products depend on each other in the order of their names.
    rest = [name for name in names if name not in states.values()]
    if len(found) != model.layers or len(others) != len(rest):
        raise PatternError(
            f"found {len(found)} recurrent and {len(others)} other products in the step, expected {model.layers} and "
            f"{len(rest)}: {', '.join(names)}"
        )
    found.update(zip(rest, others, strict=True))
    nodes = {node.name: node for node in step.nodes}
    return {name: _checked(nodes[found[name]]) for name in names}


def _checked(node: gs.Node) -> gs.Node:
    scaled = float(node.attrs.get("alpha", 1.0)) != 1.0 or float(node.attrs.get("beta", 1.0)) != 1.0
    if node.attrs.get("transB", 0) != 1 or node.attrs.get("transA", 0) or scaled:
        raise PatternError(f"node {node.name}: expected a Gemm of a transposed weight [N, K], not scaled")
    return node
