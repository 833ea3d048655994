"""The command line, the benchmark and the training of voices."""

import sys

PROGRAM = "wavernn-trt"
"""Name of the command; its messages begin with it."""

COMMANDS = {
    "speak": ("speak", "speak English text"),
    "vocode": ("vocode", "vocode mel spectrograms, or re-synthesise recordings"),
    "export": ("export", "convert a trained checkpoint to a model directory"),
    "inspect": ("inspect", "show a model directory or a TensorRT plan, and check them"),
    "score": ("score", "score a model on recordings: bits per sample, log-mel correlation"),
    "build": ("build", "build TensorRT plans for a model directory"),
    "engines": ("engines", "list, show and remove built TensorRT plans"),
    "calibrate": ("calibrate", "measure activation ranges, as needed by 'quantize'"),
    "quantize": ("quantize", "quantise a model directory to 8 bits, and measure the loss"),
    "bench": ("bench.options", "measure speed on this machine, and compare it with PyTorch"),
}
"""Subcommand -> its module in this package, and its line of ``--help``."""


def notice(message: str) -> None:
    """Prints a line on stderr, after the program's name."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
