"""Graph rewriting with onnx-graphsurgeon; the result of each pass is compared with the graph before it."""
