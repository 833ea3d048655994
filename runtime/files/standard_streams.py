"""Standard input as the input of a job, and standard output as its output."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from wavernn_trt.runtime.errors import VocoderError

STANDARD_INPUT = Path("/dev/stdin")
"""What ``-`` means as an input; on every operating system, since it is never opened by this name."""
STANDARD_OUTPUT = Path("/dev/stdout")
"""What ``-`` means as an output."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")
"""Files that are open already: what process substitution gives."""


def is_input_stream(path: Path) -> bool:
    """Whether an input is standard input or another file that is open already."""
    return path == STANDARD_INPUT or _DESCRIPTOR.fullmatch(path.as_posix()) is not None


def is_standard_output(path: Path) -> bool:
    """Whether an output is standard output."""
    return path == STANDARD_OUTPUT


def read_input_stream(path: Path) -> bytes:
    """Everything up to the end of standard input or of another open file, which is then used up.

    Raises:
        VocoderError: it is a terminal, or is not open for reading.
    """
    match = _DESCRIPTOR.fullmatch(path.as_posix())
    if match is None and sys.stdin is None:  # as Python has it where the shell closed it
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
    """Refuses a standard output that takes no WAV file.

    Raises:
        VocoderError: it is closed, or a terminal.
    """
    try:
        terminal = sys.stdout.isatty()
    except (AttributeError, ValueError):
        raise VocoderError("standard output is closed; name a .wav file as the output") from None
    if terminal:
        raise VocoderError("standard output is a terminal, which shows no WAV file; pipe it on, or name a .wav file")


class StandardOutput:
    """Standard output as a file that is written whole: the contents are kept back until there is no error any more."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self._content = bytearray()

    @property
    def folder(self) -> None:
        """There is none."""
        return None

    def write(self, content: bytes | memoryview) -> None:
        """Takes what comes next."""
        self._content += content

    def flush(self) -> None:
        """Nothing is kept on a disk."""

    def publish(self) -> None:
        """Writes the contents.

        Raises:
            OSError: the reader has left, or the disk is full.
        """
        sys.stdout.flush()
        try:
            # Not by way of Python's buffer, which would be written once more when the process ends.
            with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
                rest = memoryview(self._content)
                while rest:
                    rest = rest[stream.write(rest) or 0 :]
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(STANDARD_OUTPUT)) from None

    def discard(self) -> None:
        """Gives the contents up."""
        self._content.clear()
