"""A conditioner and one step of its decoder, as graphs: what every rewriting pass takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ColumnGroup

OPSET = 18
"""The newest operator set that every reader of these files knows (TensorRT 10.x, ONNX Runtime 1.17)."""
IR_VERSION = 9
"""ONNX file format version: 1.15, for the same reason."""


@dataclass(frozen=True)
class Networks:
    """A conditioner and one step of its decoder, as graphs; what the rewriting passes take and give.

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
