"""What a machine with an NVIDIA GPU is asked: whether the kernels are right there, and how fast they are."""
