"""Small edits of onnx-graphsurgeon graphs that several passes make."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs


def add_node(graph: gs.Graph, op: str, inputs: Sequence[gs.Tensor], name: str, **attributes: object) -> gs.Variable:
    """Appends a node with one output; node and output are both called ``name``."""
    output = gs.Variable(name)
    graph.nodes.append(gs.Node(op, name, dict(attributes), list(inputs), [output]))
    return output


def replace_tensor(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Makes every reader of ``old``, the graph's outputs among them, read ``new``."""
    for node in list(old.outputs):
        node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
    graph.outputs = [new if tensor is old else tensor for tensor in graph.outputs]
