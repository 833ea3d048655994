"""The inputs, outputs and first nodes of every decoder graph.

B streams, T steps, W rows of conditioning, G interpolated column groups, L recurrent layers of H units:

=================  ==================  ==========================================================================
``conditioning``   [B, W, columns]     each stream's window of the conditioner's rows
``frame_index``    [B, T] int32        the window's row of a step's ``held`` groups; only where a group is held
``interpolation``  [B, G, T, W]        the weights of the window's rows for the other groups; only where G > 0
``uniforms``       [B, T, U]           [..., 0] chooses the class or component: uniform on [0, 1), at most 1 - 2**-23.
                                       [..., 1], for mixtures: a standard deviate, ln v - ln(1 - v) for logistics and
                                       normal for Gaussians
``previous``       [B]                 the sample before the chunk: int32 label (univoc) or float32 in [-1, 1]
``hidden``         [L, B, H]           recurrent state
``samples``        [B, T]              int32 labels, or float32 in [-1, 1] for mixtures
``previous_out``,  as ``previous``,    the state after the chunk
``hidden_out``     ``hidden``
=================  ==================  ==========================================================================

Each stream has its own indices and weights, because the streams of a chunk begin at different positions in their
frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ColumnGroup, ModelConfig
from wavernn_trt.export.networks import OPSET, Networks, Row, add_node

Dimension = int | str


def new_decoder(
    name: str, model: ModelConfig, networks: Networks, batch: Dimension, steps: Dimension, window: Dimension
) -> gs.Graph:
    """Returns a graph with a decoder's inputs and no nodes; dynamic dimensions are names."""
    columns = sum(group.columns for group in networks.groups)
    inputs = [gs.Variable("conditioning", np.float32, (batch, window, columns))]
    expansions = [group.expansion for group in networks.groups]
    if "held" in expansions:
        inputs.append(gs.Variable("frame_index", np.int32, (batch, steps)))
    interpolated = sum(expansion != "held" for expansion in expansions)
    if interpolated:
        inputs.append(gs.Variable("interpolation", np.float32, (batch, interpolated, steps, window)))
    inputs.append(gs.Variable("uniforms", np.float32, (batch, steps, model.uniforms)))
    inputs.append(gs.Variable("previous", _previous_dtype(model), (batch,)))
    inputs.append(gs.Variable("hidden", np.float32, (model.layers, batch, model.hidden_size)))
    return gs.Graph(name=name, inputs=inputs, opset=OPSET)


def add_expansion(graph: gs.Graph, groups: tuple[ColumnGroup, ...], rows: tuple[Row, ...]) -> list[gs.Variable]:
    """Adds the nodes that expand a chunk's window of conditioning from frames to samples, for all steps at once.

    Args:
        graph: from `new_decoder`.
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


def read_state(graph: gs.Graph, model: ModelConfig) -> tuple[gs.Variable, list[gs.Variable]]:
    """Adds nodes for ``previous`` and each layer's hidden state [B, H], and returns these tensors."""
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    previous = inputs["previous"]
    if model.label_feedback:
        previous = add_node(graph, "Cast", [previous], "previous_label", to=7)  # INT64, ArgMax's type
        previous.dtype = np.dtype(np.int64)
    hidden = []
    for layer in range(model.layers):
        index = gs.Constant(f"layer_{layer}", np.array(layer, np.int64))
        state = add_node(graph, "Gather", [inputs["hidden"], index], f"hidden_{layer}", axis=0)
        state.dtype = np.dtype(np.float32)
        hidden.append(state)
    return previous, hidden


def write_outputs(
    graph: gs.Graph, model: ModelConfig, samples: gs.Variable, previous: gs.Variable, hidden: Sequence[gs.Variable]
) -> None:
    """Adds the outputs ``samples`` [B, T], ``previous_out`` [B] and ``hidden_out`` [L, B, H].

    Args:
        graph: the decoder.
        model: its configuration.
        samples: [T, B].
        previous: [B], from the last step.
        hidden: one [B, H] for each layer.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    batch, steps = inputs["uniforms"].shape[:2]
    sample_dtype = np.int32 if model.output == "categorical" else np.float32
    outputs = [
        gs.Variable("samples", sample_dtype, (batch, steps)),
        gs.Variable("previous_out", _previous_dtype(model), (batch,)),
        gs.Variable("hidden_out", np.float32, inputs["hidden"].shape),
    ]
    by_stream = add_node(graph, "Transpose", [samples], "samples_by_stream", perm=[1, 0])
    graph.nodes.append(_cast(by_stream, outputs[0]))
    graph.nodes.append(_cast(previous, outputs[1]))
    axis = gs.Constant("hidden_axis", np.array([0], np.int64))
    stacked = [add_node(graph, "Unsqueeze", [state, axis], f"hidden_out_{n}") for n, state in enumerate(hidden)]
    graph.nodes.append(gs.Node("Concat", "hidden_out", {"axis": 0}, stacked, [outputs[2]]))
    graph.outputs = outputs


def _cast(tensor: gs.Variable, output: gs.Variable) -> gs.Node:
    to = {np.dtype(np.float32): 1, np.dtype(np.int32): 6}[np.dtype(output.dtype)]
    return gs.Node("Cast", output.name, {"to": to}, [tensor], [output])


def _previous_dtype(model: ModelConfig) -> type:
    return np.int32 if model.label_feedback else np.float32


def _split(graph: gs.Graph, tensor: gs.Variable, widths: list[int], axis: int, name: str) -> list[gs.Variable]:
    if len(widths) == 1:
        return [tensor]
    sizes = gs.Constant(f"{name}_widths", np.array(widths, np.int64))
    names = [f"{name}_{index}" for index in range(len(widths))]
    graph.nodes.append(gs.Node("Split", name, {"axis": axis}, [tensor, sizes], [gs.Variable(n) for n in names]))
    return list(graph.nodes[-1].outputs)
