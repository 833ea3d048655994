"""Pass: replicates the step into a static graph without control flow, for TensorRT."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.networks import Networks, add_node
from wavernn_trt.export.rewrite.decoder_interface import (
    Dimension,
    add_expansion,
    new_decoder,
    read_state,
    write_outputs,
)


def unroll(networks: Networks, model: ModelConfig, *, steps: int, batch: Dimension, window: int) -> gs.Graph:
    """Returns ``steps`` steps of ``batch`` streams, each with the previous step's sample and state as inputs.

    Weights are shared initializers. Every shape is static, except the streams' where ``batch`` is a name.
    """
    graph = new_decoder("decoder", model, networks, batch, steps, window)
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    rows = add_expansion(graph, networks.groups, networks.rows)
    uniforms = add_node(graph, "Transpose", [inputs["uniforms"]], "uniforms_by_step", perm=[1, 0, 2])
    previous, hidden = read_state(graph, model)
    samples = []
    for step in range(steps):
        index = gs.Constant(f"step_{step}", np.array(step, np.int32))
        sources: dict[str, gs.Tensor] = {"previous": previous}
        sources.update({f"hidden_{layer}": state for layer, state in enumerate(hidden)})
        per_step = [
            *((row.name, tensor) for row, tensor in zip(networks.rows, rows, strict=True)),
            ("uniforms", uniforms),
        ]
        for name, tensor in per_step:
            sources[name] = add_node(graph, "Gather", [tensor, index], f"{name}.{step}", axis=0)
        _replicate(networks.step, sources, graph, step)
        samples.append(sources["sample"])
        previous = sources["next_previous"]
        hidden = [sources[f"next_hidden_{layer}"] for layer in range(model.layers)]
    flat = add_node(graph, "Concat", samples, "samples_flat", axis=0)
    shape = gs.Constant("samples_shape", np.array([steps, -1], np.int64))
    by_step = add_node(graph, "Reshape", [flat, shape], "samples_by_step")
    write_outputs(graph, model, by_step, previous, hidden)
    return graph.cleanup(remove_unused_graph_inputs=False)


def _replicate(template: gs.Graph, tensors: dict[str, gs.Tensor], graph: gs.Graph, step: int) -> None:
    """Appends a copy of the step's nodes; adds its tensors to ``tensors``, by the template's names."""

    def here(tensor: gs.Tensor) -> gs.Tensor:
        if isinstance(tensor, gs.Constant) or tensor.is_empty():
            return tensor
        if tensor.name not in tensors:
            tensors[tensor.name] = gs.Variable(f"{tensor.name}.{step}")
        return tensors[tensor.name]

    for node in template.nodes:
        if node.op == "Identity":
            tensors[node.outputs[0].name] = here(node.inputs[0])
            continue
        inputs, outputs = [here(tensor) for tensor in node.inputs], [here(tensor) for tensor in node.outputs]
        graph.nodes.append(
            gs.Node(node.op, f"{node.name}.{step}", dict(node.attrs), inputs, outputs, domain=node.domain)
        )
