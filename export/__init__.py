"""From a trained checkpoint to a model directory: families, ONNX export, graph rewriting."""
