"""TensorRT engines, built offline: what a model directory asks of TensorRT, before any build."""
