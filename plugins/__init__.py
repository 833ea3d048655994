"""The operations that TensorRT takes as plugins, each with a numpy reference."""
