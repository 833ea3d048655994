"""The step in a loop (ONNX ``Scan``) with any number of steps and streams, for ONNX Runtime.

On a CPU a loop is as fast as the unrolled graph, and its session opens in milliseconds instead of many seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.networks import Networks, add_node
from wavernn_trt.export.rewrite.decoder_interface import add_expansion, new_decoder, read_state, write_outputs


def free_running_loop(networks: Networks, model: ModelConfig) -> gs.Graph:
    """Returns the decoder as a loop, with the inputs and outputs of the unrolled one and dynamic sizes."""
    graph = new_decoder("decoder_loop", model, networks, "batch", "steps", "window")
    rows = add_expansion(graph, networks.groups, networks.rows)
    uniforms = add_node(graph, "Transpose", [graph.tensors()["uniforms"]], "uniforms_by_step", perm=[1, 0, 2])
    previous, hidden = read_state(graph, model)
    body = networks.step.copy()
    tensors = body.tensors()
    scanned = [row.name for row in networks.rows] + ["uniforms"]
    body.inputs = [tensors[name] for name in ("previous", *_hidden_names(model), *scanned)]
    if model.label_feedback:
        body.inputs[0].dtype = np.dtype(np.int64)
    # ONNX Runtime requires a distinct tensor for each output; the sample may also be the next step's "previous".
    body.outputs = [
        _copy(body, tensors["next_previous"], "scanned_previous"),
        *_next_hidden(tensors, model),
        _copy(body, tensors["sample"], "scanned_sample"),
    ]
    outputs = _scan(graph, body, [previous, *hidden], [*rows, uniforms])
    write_outputs(graph, model, outputs[-1], outputs[0], outputs[1:-1])
    return graph.cleanup(remove_unused_graph_inputs=False)


def teacher_forced_loop(networks: Networks, model: ModelConfig, yielded: Sequence[str] = ("logits",)) -> gs.Graph:
    """Returns the loop with given samples: ``previous`` [B, T] -> ``logits`` [B, T, outputs] and the state.

    Args:
        networks: with the conditioning hoisted.
        model: its configuration.
        yielded: tensors of the step, [B, columns] each, which are concatenated in place of the logits.
    """
    graph = new_decoder("teacher_forced", model, networks, "batch", "steps", "window")
    inputs = graph.tensors()
    inputs["previous"].shape = ("batch", "steps")
    rows = add_expansion(graph, networks.groups, networks.rows)
    previous, hidden = read_state(graph, model)
    forced = add_node(graph, "Transpose", [previous], "previous_by_step", perm=[1, 0])
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name != "uniforms"]
    body = networks.step.copy()
    tensors = body.tensors()
    body.inputs = [tensors[name] for name in (*_hidden_names(model), "previous", *(row.name for row in networks.rows))]
    if model.label_feedback:
        tensors["previous"].dtype = np.dtype(np.int64)
    found = [tensors[name] for name in yielded]
    tensors["logits"].name = "step_logits"  # the name of the graph's output must not occur inside its loop
    side_by_side = found[0] if len(found) == 1 else add_node(body, "Concat", found, "side_by_side", axis=1)
    body.outputs = [*_next_hidden(tensors, model), _copy(body, side_by_side, "scanned_logits")]
    outputs = _scan(graph, body, hidden, [forced, *rows])
    columns = model.outputs if tuple(yielded) == ("logits",) else "columns"
    logits = gs.Variable("logits", np.float32, ("batch", "steps", columns))
    graph.nodes.append(gs.Node("Transpose", "logits", {"perm": [1, 0, 2]}, [outputs[-1]], [logits]))
    axis = gs.Constant("hidden_axis", np.array([0], np.int64))
    stacked = [add_node(graph, "Unsqueeze", [state, axis], f"stacked_{n}") for n, state in enumerate(outputs[:-1])]
    hidden_out = gs.Variable("hidden_out", np.float32, inputs["hidden"].shape)
    graph.nodes.append(gs.Node("Concat", "hidden_out", {"axis": 0}, list(stacked), [hidden_out]))
    graph.outputs = [logits, hidden_out]
    return graph.cleanup(remove_unused_graph_inputs=False)


def _scan(graph: gs.Graph, body: gs.Graph, states: list[gs.Variable], scanned: list[gs.Variable]) -> list[gs.Variable]:
    body.name = "step"
    body.cleanup(remove_unused_graph_inputs=False).toposort()
    outputs = [gs.Variable(f"scan_{index}") for index in range(len(body.outputs))]
    attributes = {"body": body, "num_scan_inputs": len(scanned)}
    graph.nodes.append(gs.Node("Scan", "steps", attributes, [*states, *scanned], list(outputs)))
    return outputs


def _copy(body: gs.Graph, tensor: gs.Tensor, name: str) -> gs.Variable:
    copy = gs.Variable(name, tensor.dtype, tensor.shape)
    body.nodes.append(gs.Node("Identity", name, {}, [tensor], [copy]))
    return copy


def _hidden_names(model: ModelConfig) -> list[str]:
    return [f"hidden_{layer}" for layer in range(model.layers)]


def _next_hidden(tensors: dict[str, gs.Tensor], model: ModelConfig) -> list[gs.Tensor]:
    return [tensors[f"next_{name}"] for name in _hidden_names(model)]
