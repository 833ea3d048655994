"""Reads weights, sizes and settings from a checkpoint file, without running any code in the file."""
