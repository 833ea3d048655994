"""The command line, the benchmark harness and the training recipe."""
