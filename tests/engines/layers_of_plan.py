"""Prints the layers of a plan, as TensorRT-RTX's log lists them when it has built one. The tests run this file.

It takes an ONNX graph and a compute capability. A plan can be opened on a GPU only; this log needs none.
"""

from __future__ import annotations

import sys
from typing import Any

import tensorrt_rtx as trt

from wavernn_trt.plugins.tensorrt_plugins import register


class LayersLog(trt.ILogger):  # type: ignore[misc]
    """Keeps the lists of layers."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.layers: list[str] = []

    def log(self, severity: Any, text: str) -> None:
        if text.startswith("Layers:"):
            self.layers.append(text)


def main() -> None:
    """Builds the plan, and prints the lists."""
    graph, target = sys.argv[1:]
    log = LayersLog()
    register(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(graph):
        sys.exit("the graph is refused")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target}"), 0)
    if builder.build_serialized_network(network, config) is None:
        sys.exit("no plan was made")
    print("\n".join(log.layers))


if __name__ == "__main__":
    main()
