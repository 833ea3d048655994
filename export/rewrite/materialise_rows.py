"""Pass: computes the rows that unrolled steps read once, before the first step; for TensorRT alone.

TensorRT-RTX compiles what lies between two plugins as one region, and takes into each region what leads to it. So the
expansion of a chunk's conditioning, which every step gathers its row from, is compiled again for each step; where two
groups of columns are added up, a build's time grows with the cube of the steps. Behind a plugin, which no compiler
looks into, the rows are a tensor in memory. What is paid is a copy of them, once a chunk.
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from wavernn_trt.export.operators import DOMAIN, MATERIALISE_OPERATOR, PLUGIN_NAMESPACE, PLUGIN_VERSION

ATTRIBUTES = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
"""Of every ``MaterialisePlugin`` node: how TensorRT finds the plugin."""


def materialise_rows(graph: gs.Graph) -> gs.Graph:
    """Puts a ``MaterialisePlugin`` node between each tensor [T, B, columns] and the steps that gather a row from it.

    Args:
        graph: an unrolled decoder.

    Returns:
        A graph that computes the same.
    """
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
    """The operator's meaning in standard operators of ``opset``: none at all."""
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
