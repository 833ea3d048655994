"""Header of a ring buffer, shared by two processes.

Consists of words of eight bytes. Producer and consumer write to different cache lines of 64 bytes.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError

Encoding = Literal["float32", "int16"]
Memory = NDArray[Any] | memoryview | bytearray | mmap
Octets = NDArray[np.uint8]

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
MAGIC = b"WRNNRING"
VERSION = 1
HEADER_BYTES = 1024
LARGEST = 2**31
"""Maximum capacity in samples: more than a day at 22.05 kHz."""

# Words that never change.
_MAGIC, _VERSION, _CAPACITY, _ENCODING, _SAMPLE_RATE = range(5)
# Words of the producer's cache lines.
WRITTEN = 8
OVERRUNS, CLOSED, ERROR, MESSAGE_BYTES, PRODUCER = range(16, 21)
# Words of the consumer's cache lines.
READ = 24
UNDERRUNS, ABANDONED, CONSUMER = range(32, 35)
# Bytes of the producer's error message.
MESSAGE = slice(40 * 8, HEADER_BYTES)


@dataclass(frozen=True)
class RingFormat:
    """Capacity, encoding and sample rate of a ring."""

    capacity: int
    """Capacity in samples; a power of two."""
    encoding: Encoding
    """Encoding of the samples."""
    sample_rate: int
    """Hz."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            VocoderError: a value is not valid.
        """
        if not _whole(self.capacity) or not 0 < self.capacity <= LARGEST or self.capacity & (self.capacity - 1):
            raise VocoderError(f"capacity: found {self.capacity!r}, expected a power of two up to 2**31, in samples")
        if self.encoding not in ENCODINGS:
            raise VocoderError(f"encoding: found {self.encoding!r}, expected one of: {', '.join(ENCODINGS)}")
        if not _whole(self.sample_rate) or not 0 < self.sample_rate < 2**31:
            raise VocoderError(f"sample rate: found {self.sample_rate!r}, expected a positive number of Hz")

    @property
    def total_bytes(self) -> int:
        """Bytes of header and samples."""
        return HEADER_BYTES + self.capacity * np.dtype(self.encoding).itemsize


def header_words(octets: Octets) -> memoryview:
    """Returns the header as words. A memoryview accesses words atomically, and faster than NumPy."""
    return memoryview(octets[:HEADER_BYTES]).cast("Q")  # type: ignore[arg-type]


def write_header(octets: Octets, layout: RingFormat) -> None:
    """Writes the header of an empty ring."""
    octets[:HEADER_BYTES] = 0
    words = header_words(octets)
    words[_CAPACITY] = layout.capacity
    words[_ENCODING] = ENCODINGS.index(layout.encoding)
    words[_SAMPLE_RATE] = layout.sample_rate
    words[_VERSION] = VERSION
    words[_MAGIC] = int.from_bytes(MAGIC, "little")  # last: a process that reads it can read the rest


def read_header(octets: Octets, origin: str) -> RingFormat:
    """Reads and checks the header that another process wrote.

    Args:
        octets: the whole memory.
        origin: name of the memory in errors.

    Raises:
        VocoderError: the memory has no complete ring of this version.
    """
    size = len(octets)
    if size < HEADER_BYTES:
        raise VocoderError(f"{origin}: found {size} bytes, expected a ring buffer, which has at least {HEADER_BYTES}")
    words = header_words(octets)
    if (found := octets[: len(MAGIC)].tobytes()) != MAGIC:
        raise VocoderError(f"{origin}: found {found!r} at its beginning, expected {MAGIC!r}; it is not a ring buffer")
    if words[_VERSION] != VERSION:
        raise VocoderError(
            f"{origin}: found a ring buffer of version {words[_VERSION]}, expected {VERSION}; both processes need the "
            "same version of wavernn-trt"
        )
    if (code := words[_ENCODING]) >= len(ENCODINGS):
        raise VocoderError(f"{origin}: found encoding {code}, expected 0 to {len(ENCODINGS) - 1}; it is damaged")
    try:
        layout = RingFormat(words[_CAPACITY], ENCODINGS[code], words[_SAMPLE_RATE])
    except VocoderError as error:
        raise VocoderError(f"{origin}: its header is damaged: {error}") from None
    if size < layout.total_bytes:
        raise VocoderError(f"{origin}: found {size} bytes, expected the {layout.total_bytes} that its header requires")
    return layout


def check_order(*, shared: bool) -> None:
    """Checks that samples become visible before the count that includes them on this machine.

    Raises:
        VocoderError: the machine does not guarantee this order.
    """
    x86, machine = platform.machine().lower() in ("x86_64", "amd64"), f"{platform.system()} on {platform.machine()}"
    if shared and not (x86 and sys.platform == "linux"):
        raise VocoderError(
            f"ring buffer in shared memory: found {machine}, expected Linux on x86_64; stream within one process here"
        )
    if not x86 and not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise VocoderError(
            f"ring buffer: found a Python without the global interpreter lock and {machine}, expected either with it "
            "or on x86_64"
        )


def as_octets(memory: Memory, needed: int = 0) -> Octets:
    """Returns the memory as bytes, without a copy.

    Args:
        memory: any contiguous buffer.
        needed: minimum size in bytes.

    Raises:
        VocoderError: the memory is not contiguous, too small, read-only or not aligned.
    """
    try:
        octets = np.frombuffer(memory, np.uint8)
    except (ValueError, BufferError, TypeError) as error:
        found = type(memory).__name__
        raise VocoderError(f"memory: found {found} ({error}), expected a contiguous buffer") from None
    if len(octets) < needed:
        raise VocoderError(f"memory: found {len(octets)} bytes, expected at least {needed}")
    if not octets.flags.writeable:
        raise VocoderError("memory: found a read-only buffer, expected a writable one")
    if octets.ctypes.data % 8:
        raise VocoderError(f"memory: found address {octets.ctypes.data:#x}, expected a multiple of 8 (64 is best)")
    return octets


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
