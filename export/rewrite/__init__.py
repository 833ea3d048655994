"""Graph rewriting with onnx-graphsurgeon: each pass takes a graph to a graph and is checked against the one before."""
