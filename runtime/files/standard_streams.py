"""Standard input as a job's input, and standard output as its output."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from wavernn_trt.runtime.errors import VocoderError

STANDARD_INPUT = Path("/dev/stdin")
"""Path that stands for the input ``-``, on every operating system; it is never opened by this name."""
STANDARD_OUTPUT = Path("/dev/stdout")
"""Path that stands for the output ``-``."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")
"""Paths of open file descriptors, as process substitution yields them."""


def is_input_stream(path: Path) -> bool:
    """Whether an input is standard input or another open file descriptor."""
    return path == STANDARD_INPUT or _DESCRIPTOR.fullmatch(path.as_posix()) is not None


def is_standard_output(path: Path) -> bool:
    """Whether an output is standard output."""
    return path == STANDARD_OUTPUT


def read_input_stream(path: Path) -> bytes:
    """Reads standard input or another open file descriptor to its end.

    Raises:
        VocoderError: the stream is a terminal, or not open for reading.
    """
    match = _DESCRIPTOR.fullmatch(path.as_posix())
    if match is None and sys.stdin is None:  # Python sets this if the shell closed standard input
        raise VocoderError(f"{path}: standard input is closed, expected a recording or a mel from a pipe or a file")
    try:
        descriptor = int(match[1]) if match else sys.stdin.fileno()
        with open(descriptor, "rb", closefd=False) as stream:
            if stream.isatty():
                raise VocoderError(f"{path}: found a terminal, expected a recording or a mel from a pipe or a file")
            return stream.read()
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, VocoderError):
            raise
        raise VocoderError(f"{path}: it cannot be read ({getattr(error, 'strerror', None) or error})") from None


def check_standard_output() -> None:
    """Checks that standard output can receive a WAV file.

    Raises:
        VocoderError: standard output is closed or a terminal.
    """
    try:
        terminal = sys.stdout.isatty()
    except (AttributeError, ValueError):
        raise VocoderError("standard output is closed; name a .wav file as the output") from None
    if terminal:
        raise VocoderError("standard output is a terminal, expected a pipe or a file; or name a .wav file")


class StandardOutput:
    """Standard output as an `OutputFile`: contents are buffered until they are published."""

    folder: Path | None = None

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, content: bytes | memoryview) -> None:
        self._content += content

    def flush(self) -> None:
        """Does nothing: the contents are not on a disk."""

    def publish(self) -> None:
        """Writes the contents.

        Raises:
            OSError: the reader closed the pipe, or the disk is full.
        """
        sys.stdout.flush()
        try:
            # Unbuffered: after an error, Python would write its buffer again when the process ends.
            with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
                rest = memoryview(self._content)
                while rest:
                    rest = rest[stream.write(rest) or 0 :]
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(STANDARD_OUTPUT)) from None

    def discard(self) -> None:
        self._content.clear()
