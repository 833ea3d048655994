"""The first nodes of every decoder: from frames to samples, for all steps of a chunk at once."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ColumnGroup
from wavernn_trt.export.graph_edit import add_node
from wavernn_trt.export.networks import Row


def add_expansion(graph: gs.Graph, groups: tuple[ColumnGroup, ...], rows: tuple[Row, ...]) -> list[gs.Variable]:
    """Adds what makes each step's rows from a chunk's window of conditioning.

    Args:
        graph: has the inputs ``conditioning`` [B, W, columns], ``frame_index`` [B, T] int32 (where a group is held) and
            ``interpolation`` [B, G, T, W] (where G groups are not).
        groups: the conditioning's column groups.
        rows: the step's conditioning inputs.

    Returns:
        One tensor [T, B, width] for each row.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    widths = [group.columns for group in groups]
    parts = _split(graph, inputs["conditioning"], widths, 2, "group")
    contributions: list[list[gs.Variable]] = [[] for _ in rows]
    interpolated = 0
    for index, (group, part) in enumerate(zip(groups, parts, strict=True)):
        if group.expansion == "held":
            indices = add_node(graph, "Cast", [inputs["frame_index"]], f"index_{index}", to=7)  # INT64
            axis = gs.Constant(f"index_axis_{index}", np.array([2], np.int64))
            indices = add_node(graph, "Unsqueeze", [indices, axis], f"indices_{index}")
            samples = add_node(graph, "GatherND", [part, indices], f"samples_{index}", batch_dims=1)
        else:
            number = gs.Constant(f"interpolation_{index}", np.array(interpolated, np.int64))
            weights = add_node(graph, "Gather", [inputs["interpolation"], number], f"weights_{index}", axis=1)
            samples = add_node(graph, "MatMul", [weights, part], f"samples_{index}")
            interpolated += 1
        steps = add_node(graph, "Transpose", [samples], f"steps_{index}", perm=[1, 0, 2])  # [T, B, columns]
        mine = [number for number, row in enumerate(rows) if index in row.groups]
        for number, piece in zip(
            mine, _split(graph, steps, [rows[m].width for m in mine], 2, f"part_{index}"), strict=True
        ):
            contributions[number].append(piece)
    tensors = []
    for number, pieces in enumerate(contributions):
        total = pieces[0]
        for count, piece in enumerate(pieces[1:]):
            total = add_node(graph, "Add", [total, piece], f"row_sum_{number}_{count}")
        tensors.append(total)
    return tensors


def _split(graph: gs.Graph, tensor: gs.Variable, widths: list[int], axis: int, name: str) -> list[gs.Variable]:
    if len(widths) == 1:
        return [tensor]
    sizes = gs.Constant(f"{name}_widths", np.array(widths, np.int64))
    names = [f"{name}_{index}" for index in range(len(widths))]
    graph.nodes.append(gs.Node("Split", name, {"axis": axis}, [tensor, sizes], [gs.Variable(n) for n in names]))
    return list(graph.nodes[-1].outputs)
