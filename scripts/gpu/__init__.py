"""Checks and times the kernels on a machine with an NVIDIA GPU."""
