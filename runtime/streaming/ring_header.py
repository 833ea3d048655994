"""The header in front of a ring buffer's samples, which two processes share.

Words of eight bytes in lines of 64, the unit that processors pass between caches: no line is written by both sides.
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
"""Samples; more is a mistake: a day at 22.05 kHz is less."""

# Never changes.
_MAGIC, _VERSION, _CAPACITY, _ENCODING, _SAMPLE_RATE = range(5)
# The producer's lines.
WRITTEN = 8
OVERRUNS, CLOSED, ERROR, MESSAGE_BYTES, PRODUCER = range(16, 21)
# The consumer's lines.
READ = 24
UNDERRUNS, ABANDONED, CONSUMER = range(32, 35)
# The producer's last words.
MESSAGE = slice(40 * 8, HEADER_BYTES)


@dataclass(frozen=True)
class RingFormat:
    """What a ring holds."""

    capacity: int
    """Samples; a power of two."""
    encoding: Encoding
    """Of a sample."""
    sample_rate: int
    """Hz."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            VocoderError: a value is not usable.
        """
        if not _whole(self.capacity) or not 0 < self.capacity <= LARGEST or self.capacity & (self.capacity - 1):
            raise VocoderError(f"capacity: found {self.capacity!r}, expected a power of two up to 2**31, in samples")
        if self.encoding not in ENCODINGS:
            raise VocoderError(f"encoding: found {self.encoding!r}, expected one of: {', '.join(ENCODINGS)}")
        if not _whole(self.sample_rate) or not 0 < self.sample_rate < 2**31:
            raise VocoderError(f"sample rate: found {self.sample_rate!r}, expected a positive number of Hz")

    @property
    def total_bytes(self) -> int:
        """Of header and samples."""
        return HEADER_BYTES + self.capacity * np.dtype(self.encoding).itemsize


def header_words(octets: Octets) -> memoryview:
    """The header as words, which a memoryview loads and stores whole (numpy's would be whole as well, but slower)."""
    return memoryview(octets[:HEADER_BYTES]).cast("Q")  # type: ignore[arg-type]


def write_header(octets: Octets, layout: RingFormat) -> None:
    """Makes the memory an empty ring."""
    octets[:HEADER_BYTES] = 0
    words = header_words(octets)
    words[_CAPACITY] = layout.capacity
    words[_ENCODING] = ENCODINGS.index(layout.encoding)
    words[_SAMPLE_RATE] = layout.sample_rate
    words[_VERSION] = VERSION
    words[_MAGIC] = int.from_bytes(MAGIC, "little")  # last: a process that sees it sees the rest


def read_header(octets: Octets, origin: str) -> RingFormat:
    """What the ring is that another process made in this memory.

    Args:
        octets: all of the memory.
        origin: what errors call it.

    Raises:
        VocoderError: there is no ring of this version in it, or one that is cut off.
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
        raise VocoderError(f"{origin}: found {size} bytes, expected the {layout.total_bytes} that its header speaks of")
    return layout


def check_order(*, shared: bool) -> None:
    """Refuses machines on which samples could be seen after the count that announces them.

    Raises:
        VocoderError: this is one.
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
    """The memory as bytes, without a copy.

    Args:
        memory: any contiguous buffer.
        needed: bytes that it has to have.

    Raises:
        VocoderError: not contiguous, too small, read-only or not aligned.
    """
    try:
        octets = np.frombuffer(memory, np.uint8)
    except (ValueError, BufferError, TypeError) as error:
        found = type(memory).__name__
        raise VocoderError(f"memory: found {found} ({error}), expected a contiguous buffer") from None
    if len(octets) < needed:
        raise VocoderError(f"memory: found {len(octets)} bytes, expected at least {needed}")
    if not octets.flags.writeable:
        raise VocoderError("memory: found a read-only buffer, expected one that can be written")
    if octets.ctypes.data % 8:
        raise VocoderError(f"memory: found address {octets.ctypes.data:#x}, expected a multiple of 8, best of 64")
    return octets


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
