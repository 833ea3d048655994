"""Pass: replaces the dozen operators of each GRU cell by one ``CustomGRUPlugin`` node."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import onnx_graphsurgeon as gs

from wavernn_trt.export.networks import Networks
from wavernn_trt.export.operators import DOMAIN, GRU_OPERATOR, PLUGIN_NAMESPACE, PLUGIN_VERSION


class PatternError(ValueError):
    """A graph does not have the structure that a pass rewrites: the node and the expected one."""


def fuse_gates(networks: Networks, input_sizes: tuple[int, ...], unfused: Collection[int] = ()) -> Networks:
    """Fuses the GRU cells of the step.

    Args:
        networks: with the input products separate from the recurrent ones.
        input_sizes: input width of each layer, for its node's attributes.
        unfused: layers that are not fused.

    Raises:
        PatternError: the step's cells are not those of `wavernn_trt.export.families.wavernn.GRUCell`.
    """
    step = networks.step.copy()
    cells = [node for node in step.nodes if node.op == "Tanh"]
    if len(cells) != len(input_sizes):
        raise PatternError(
            f"found {len(cells)} Tanh nodes in the step, expected one for each of {len(input_sizes)} GRUs"
        )
    for layer, (new, input_size) in enumerate(zip(cells, input_sizes, strict=True)):
        if layer not in unfused:
            _fuse(step, new, input_size)
    step.cleanup().toposort()
    return dataclasses.replace(networks, step=step)


def _fuse(step: gs.Graph, tanh: gs.Node, input_size: int) -> None:
    new_sum = _producer(tanh.inputs[0], "Add")
    input_new, reset_new = new_sum.inputs
    gates = _producer(input_new, "Split").inputs[0]
    reset, hidden_new = _producer(reset_new, "Mul").inputs
    product = _producer(_producer(hidden_new, "Split").inputs[0], "Gemm")
    sigmoid = _producer(_producer(reset, "Split").inputs[0], "Sigmoid")
    _producer(sigmoid.inputs[0], "Add")
    hidden, weight, bias = product.inputs
    if not (isinstance(weight, gs.Constant) and isinstance(bias, gs.Constant) and product.attrs.get("transB") == 1):
        raise PatternError(f"node {product.name}: expected a Gemm with constant [3H, H] weights and a bias")
    difference = _consumer(tanh.outputs[0], "Sub")
    kept = _consumer(difference.outputs[0], "Mul")
    result = _consumer(kept.outputs[0], "Add")
    output = result.outputs[0]
    result.outputs.clear()
    attributes = {
        "hidden_size": weight.values.shape[1],
        "input_size": input_size,
        "plugin_version": PLUGIN_VERSION,
        "plugin_namespace": PLUGIN_NAMESPACE,
    }
    inputs = [gates, hidden, weight, bias]
    step.nodes.append(gs.Node(GRU_OPERATOR, tanh.name, attributes, inputs, [output], domain=DOMAIN))


def _producer(tensor: gs.Tensor, op: str) -> gs.Node:
    found = tensor.inputs[0] if tensor.inputs else None
    if found is None or found.op != op:
        kind = "an input of the graph" if found is None else f"node {found.name} ({found.op})"
        raise PatternError(f"tensor {tensor.name} comes from {kind}; expected {op}, as a GRU cell has it")
    return found


def _consumer(tensor: gs.Tensor, op: str) -> gs.Node:
    for node in tensor.outputs:
        if node.op == op:
            return node
    found = ", ".join(f"{node.name} ({node.op})" for node in tensor.outputs) or "nothing"
    raise PatternError(f"tensor {tensor.name} goes to {found}; expected {op}, as a GRU cell has it")
