"""The graphs that rewriting passes convert, and two edits of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ColumnGroup

OPSET = 18
"""The newest operator set that TensorRT 10.x and ONNX Runtime 1.17 support."""
IR_VERSION = 9
"""ONNX file format version: 1.15, for the same reason."""


@dataclass(frozen=True)
class Networks:
    """A conditioner and one step of its decoder, as graphs; input and output of every rewriting pass.

    The step maps ``previous`` [B], ``hidden_l`` [B, H] for each layer, the conditioning of this sample and ``uniforms``
    [B, U] to ``sample`` [B], ``next_previous`` [B], ``next_hidden_l`` [B, H] and ``logits`` [B, outputs]. Its
    conditioning is one input [B, columns] as exported, and one input for each `Row` once hoisted.
    """

    conditioner: gs.Graph
    step: gs.Graph
    groups: tuple[ColumnGroup, ...]
    """Columns of the conditioner's output."""
    rows: tuple[Row, ...]
    """The step's conditioning inputs; empty before hoisting, when ``conditioning`` is all groups side by side."""


@dataclass(frozen=True)
class Row:
    """A conditioning input of the step, [B, width]: the sum of one column range from each of some groups."""

    name: str
    width: int
    groups: tuple[int, ...]
    """Indices of the groups that contribute; each contributes its next ``width`` columns."""


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
