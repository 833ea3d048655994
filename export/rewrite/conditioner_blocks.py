"""A recurrent conditioner that runs over a block of a mel, from given recurrent states."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def conditioner_in_blocks(conditioner: gs.Graph) -> gs.Graph | None:
    """Gives each recurrent layer of a conditioner its initial states as an input, and its last states as an output.

    The result maps ``mel`` [B, n_mels, N] and, for each layer from the lowest on, ``state_l`` [2, B, H] to
    ``conditioning`` and ``next_state_l`` [2, B, H]. Of a state, index 0 belongs to the direction that reads forward:
    it goes in with the block's first frame and comes out behind its last. Index 1 belongs to the direction that reads
    backward: it goes in behind the last frame and comes out with the first.

    Returns:
        The graph; ``None`` where the conditioner has no recurrent layer.

    Raises:
        ValueError: a recurrent layer that does not read in both directions.
    """
    graph = conditioner.copy()
    layers = [node for node in graph.nodes if node.op == "GRU"]
    for number, layer in enumerate(layers):
        if layer.attrs.get("direction") != "bidirectional" or len(layer.inputs) != 6:
            raise ValueError(f"node {layer.name}: found a GRU of one direction, expected two, with initial states")
        shape = (2, graph.inputs[0].shape[0], layer.attrs["hidden_size"])
        state = gs.Variable(f"state_{number}", np.float32, shape)
        following = gs.Variable(f"next_state_{number}", np.float32, shape)
        layer.inputs[5] = state
        layer.outputs = [layer.outputs[0], following]
        graph.inputs.append(state)
        graph.outputs.append(following)
    return graph.cleanup().toposort() if layers else None
