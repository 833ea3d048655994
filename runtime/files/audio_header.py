"""Compares the sizes in headers of WAV, AIFF, AU, CAF and W64 files with the sizes of the files, and corrects them.

Programs that write to a pipe cannot return to the header, and leave 0, the largest integer or a value near 2 GiB as the
size; an incomplete copy has fewer bytes than its header states. libsndfile reads some of these to their end, treats
others as empty and refuses the rest; with corrected headers it reads all of them.

Layouts: Microsoft, "Multimedia Programming Interface and Data Specifications 1.0" (RIFF, RIFX); EBU Tech 3306 (RF64);
Apple, "Audio Interchange File Format" and "Core Audio Format Specification"; Sony Pictures Digital, "Wave-64".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

_MAX_CHUNKS = 1000
"""Chunks that are read at most; real files have a dozen."""


@dataclass(frozen=True)
class SampleBytes:
    """Bytes of samples stated in a file's header, and present in the file."""

    stated: int | None
    """``None`` if the header leaves the size open, as headers written to pipes do."""
    present: int
    corrections: tuple[tuple[int, bytes], ...] = ()
    """Offsets and new contents that make the header state ``present``; empty if the sizes agree."""

    @property
    def missing(self) -> int:
        """Bytes that the header states and the file lacks."""
        return max(0, (self.stated or 0) - self.present)


@dataclass(frozen=True)
class _Layout:
    """Chunk layout of a file format."""

    start: int
    """Offset of the first chunk."""
    samples: bytes
    """Identifier of the chunk with the samples."""
    order: Literal["little", "big"]
    identifier: int = 4
    """Bytes of a chunk's identifier; the first four are compared."""
    size: int = 4
    """Bytes of a chunk's size."""
    counts_header: bool = False
    """Whether a chunk's size includes its identifier and the size itself."""
    alignment: int = 2

    @property
    def header(self) -> int:
        """Bytes before a chunk's content."""
        return self.identifier + self.size


_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclass(frozen=True)
class _Chunk:
    identifier: bytes
    start: int
    """Offset of its identifier."""
    content: int
    """Offset of its content."""
    size: int
    """Bytes of its content as stated in its header; may be negative or exceed the file."""


def measure_samples(file: BinaryIO) -> SampleBytes | None:
    """Finds a recording's samples and compares their stated size with the file's; changes the file's position.

    Returns:
        ``None`` for other formats, and if the file ends before any samples.
    """
    end = file.seek(0, os.SEEK_END)
    start = _read(file, 0, 40)
    if start[:4] in (b".snd", b"dns."):
        return _measure_au(start, end)
    layout = _layout(start)
    if layout is None:
        return None
    long_sizes: _Chunk | None = None  # 64-bit sizes of RF64
    for chunk in _chunks(file, layout, end):
        if chunk.identifier == b"ds64":
            long_sizes = chunk
        if chunk.identifier == layout.samples:
            if start[:4] == b"RF64" and long_sizes is not None and chunk.size == 0xFFFFFFFF:
                return _measure_rf64(file, long_sizes, chunk, end)
            return _measure_chunk(file, layout, chunk, end)
    return None


def _layout(start: bytes) -> _Layout | None:
    kind, form = start[:4], start[8:12]
    if kind in (b"RIFF", b"RF64") and form == b"WAVE":
        return _Layout(12, b"data", "little")
    if kind == b"RIFX" and form == b"WAVE":
        return _Layout(12, b"data", "big")
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _Layout(12, b"SSND", "big")
    if kind == b"caff":
        return _Layout(8, b"data", "big", size=8, alignment=1)
    if start[:16] == _W64:
        return _Layout(40, b"data", "little", identifier=16, size=8, counts_header=True, alignment=8)
    return None


def _chunks(file: BinaryIO, layout: _Layout, end: int, offset: int | None = None) -> Iterator[_Chunk]:
    """Yields chunks in order; the last one may exceed the file."""
    offset = layout.start if offset is None else offset
    for _ in range(_MAX_CHUNKS):
        header = _read(file, offset, layout.header)
        if len(header) < layout.header:
            return
        size = int.from_bytes(header[layout.identifier :], layout.order, signed=layout.size == 8)
        if layout.counts_header:
            size -= layout.header
        content = offset + layout.header
        yield _Chunk(header[:4], offset, content, size)
        if size < 0 or content + size > end:
            return
        offset = content + size
        offset += -offset % layout.alignment


def _measure_chunk(file: BinaryIO, layout: _Layout, chunk: _Chunk, end: int) -> SampleBytes:
    if chunk.size <= 0 and _ends_in_chunks(file, layout, chunk.content, end):
        return SampleBytes(0, 0)
    stated, present = _compare(chunk.size, end - chunk.content, layout.size)
    if present == chunk.size:
        return SampleBytes(stated, present)
    corrected = present + (layout.header if layout.counts_header else 0)
    field = corrected.to_bytes(layout.size, layout.order) if corrected < 2 ** (8 * layout.size) else b""
    return SampleBytes(stated, present, ((chunk.start + layout.identifier, field),))


def _measure_rf64(file: BinaryIO, long_sizes: _Chunk, chunk: _Chunk, end: int) -> SampleBytes:
    place = long_sizes.content + 8  # after the size of the whole file
    size = int.from_bytes(_read(file, place, 8), "little", signed=True)
    stated, present = _compare(size, end - chunk.content, 8)
    if present == size:
        return SampleBytes(stated, present)
    whole = (long_sizes.content, (end - 8).to_bytes(8, "little"))
    return SampleBytes(stated, present, (whole, (place, present.to_bytes(8, "little"))))


def _measure_au(start: bytes, end: int) -> SampleBytes | None:
    order: Literal["little", "big"] = "big" if start[:4] == b".snd" else "little"
    offset, size = (int.from_bytes(start[place : place + 4], order) for place in (4, 8))
    if len(start) < 24 or not 24 <= offset <= end:
        return None
    stated, present = _compare(size, end - offset, 4)
    if present == size:
        return SampleBytes(stated, present)
    field = present.to_bytes(4, order) if present < 2**32 else b""
    return SampleBytes(stated, present, ((8, field),))


def _compare(size: int, room: int, bytes_of_size: int) -> tuple[int | None, int]:
    """Returns the size in a header, ``None`` if it is a placeholder, and the size in the file."""
    present = room if size <= 0 else min(size, room)
    if bytes_of_size == 8:
        placeholder = size <= 0 or size >= 2**62
    else:
        # SoX, ALSA and others write about 2 GiB; many programs write the largest integer minus the header's size.
        placeholder = size <= 0 or 0x7FFF0000 <= size <= 0x80000000 or size >= 0xFFFF0000
    return (None if placeholder and present != size else size), present


def _ends_in_chunks(file: BinaryIO, layout: _Layout, offset: int, end: int) -> bool:
    """Whether only complete chunks follow: a size of 0 then means no samples, not an unknown number of them."""
    last = offset
    for chunk in _chunks(file, layout, end, offset):
        if not _is_identifier(chunk.identifier) or chunk.size < 0:
            return False
        last = chunk.content + chunk.size
    return last in (end, end + 1)


def _is_identifier(text: bytes) -> bool:
    return len(text) == 4 and all(32 <= byte < 127 for byte in text)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
