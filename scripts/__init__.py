"""The command line, the benchmark harness and the training recipe."""

PROGRAM = "wavernn-trt"
"""The command, as its messages begin."""
