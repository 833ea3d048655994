"""Pass: computes the rows of all unrolled steps once, before the first step; only for TensorRT.

TensorRT-RTX compiles the nodes between two plugins as one region, and includes all their inputs in each region. So the
expansion of a chunk's conditioning, from which every step gathers its row, is compiled again for each step; where two
column groups are added, build time grows with the cube of the steps. The output of a plugin is a tensor in memory, so a
plugin after the expansion ends the region. The cost is one copy of the rows per chunk.
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from wavernn_trt.export.operators import DOMAIN, MATERIALISE_OPERATOR, PLUGIN_NAMESPACE, PLUGIN_VERSION

ATTRIBUTES = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
"""Attributes of every ``MaterialisePlugin`` node, by which TensorRT finds the plugin."""


def materialise_rows(graph: gs.Graph) -> gs.Graph:
    """Adds a ``MaterialisePlugin`` node after each tensor [T, B, columns] of an unrolled decoder's rows."""
    graph = graph.copy()
    readers: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        if _gathers_a_step(node):
            readers.setdefault(node.inputs[0].name, []).append(node)
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        for tensor in node.outputs:
            if tensor.name in readers:
                nodes.append(_materialise(tensor, readers[tensor.name]))
    graph.nodes = nodes
    return graph


def materialise_function(opset: int) -> onnx.FunctionProto:
    """Returns the operator as a standard operator of ``opset``: the identity."""
    return helper.make_function(
        DOMAIN,
        MATERIALISE_OPERATOR,
        ["rows"],
        ["materialised"],
        [helper.make_node("Identity", ["rows"], ["materialised"])],
        [helper.make_opsetid("", opset)],
        list(ATTRIBUTES),
    )


def _gathers_a_step(node: gs.Node) -> bool:
    if node.op != "Gather" or node.attrs.get("axis") != 0:
        return False
    rows, index = node.inputs
    return bool(rows.inputs) and isinstance(index, gs.Constant) and index.values.ndim == 0


def _materialise(rows: gs.Variable, readers: list[gs.Node]) -> gs.Node:
    name = f"{rows.name}_materialised"
    materialised = gs.Variable(name)
    for reader in readers:
        reader.inputs[0] = materialised
    return gs.Node(MATERIALISE_OPERATOR, name, dict(ATTRIBUTES), [rows], [materialised], domain=DOMAIN)
