"""Reader of recordings in libsndfile's formats; reads files that are cut short as far as possible, with a warning."""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio_header import SampleBytes, measure_samples
from wavernn_trt.runtime.files.file_kinds import UNREADABLE, check_regular

if TYPE_CHECKING:
    from soundfile import SoundFile


_BLOCK = 1 << 20
"""Values read at a time."""
_MAX_FRAMES = 1 << 40
"""Frames that a header may state; libsndfile returns more if the header leaves the number open."""
_MP3_ESTIMATE_FACTOR = 40
"""Largest error factor of a length estimated from an MP3's first frames: 320 kbit/s, followed by 8 kbit/s."""
_OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the largest Ogg page (RFC 3533)."""
_SHORTAGE_LOG = re.compile(r"^.*(?:truncated|should be).*$", re.MULTILINE)
"""Lines in libsndfile's log for a file with fewer bytes than its header states."""
_SIGNATURES = (
    (4, b"ftyp", "MPEG-4 (AAC or ALAC)"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, bytes.fromhex("3026b2758e66cf11"), "Windows Media Audio"),
    (0, b"#!AMR", "AMR"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (28, b"Speex   ", "Speex"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
)
"""Offsets and signatures of audio formats that libsndfile does not read."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording, mixed down to one channel."""

    samples: FloatArray
    """float32 [samples], full scale is 1."""
    sample_rate: int
    """Hz."""
    warnings: tuple[str, ...] = ()
    """Faults of the file that did not prevent reading it."""


def read_recording(path: str | Path, content: bytes | None = None) -> Recording:
    """Reads a recording up to the end of the file, or to its first fault.

    Args:
        path: WAV, FLAC, Ogg, MP3, or another format of libsndfile; recognised by content.
        content: the bytes to read instead of the file; ``path`` is then their name in errors.

    Raises:
        VocoderError: the file is missing, not readable, empty, or has non-finite samples.
    """
    with _opened(path, content) as (file, size, sound):
        blocks, reason = _read_blocks(sound)
        samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
        warning = _shortage(file, sound, size, len(samples), reason)
        if not len(samples):
            raise VocoderError(f"{path}: found no samples, expected a recording{'; ' if warning else ''}{warning}")
        if not np.isfinite(samples).all():
            raise VocoderError(f"{path}: found NaN or infinite samples, expected finite ones")
        return Recording(samples, int(sound.samplerate), (warning,) if warning else ())


def recording_seconds(path: Path) -> float:
    """Returns the duration stated in a recording's header; 0 if it states none or cannot be read."""
    with suppress(VocoderError), _opened(path, None) as (file, _, sound):
        frames = int(sound.frames) // (_MP3_ESTIMATE_FACTOR if _has_estimated_length(file) else 1)
        return frames / int(sound.samplerate) if 0 < frames < _MAX_FRAMES else 0.0
    return 0.0


@contextmanager
def _opened(path: str | Path, content: bytes | None) -> Iterator[tuple[BinaryIO, SampleBytes | None, SoundFile]]:
    """Opens a file; yields it, the sizes in its header, and the file opened by libsndfile."""
    if content is None:
        check_regular(path)
    try:
        with Path(path).open("rb") if content is None else io.BytesIO(content) as file:
            size = measure_samples(file)
            source = _corrected(file, size) if size is not None and size.corrections else file
            with _sound(path, file, source, size) as sound:
                yield file, size, sound
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None


def _corrected(file: BinaryIO, size: SampleBytes) -> BinaryIO:
    file.seek(0)
    content = bytearray(file.read())
    for offset, field in size.corrections:
        content[offset : offset + len(field)] = field
    return io.BytesIO(content)


def _sound(path: str | Path, file: BinaryIO, source: BinaryIO, size: SampleBytes | None) -> SoundFile:
    try:
        return _forward_file()(_Source(source))
    except (RuntimeError, ValueError, TypeError) as error:  # libsndfile's errors are RuntimeErrors
        # The message would contain the repr of the file object; libsndfile's own reason does not.
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
    if (unreadable := _unreadable(path, file)) is not None:
        wav = shlex.quote(str(Path(path).with_suffix(".wav")))
        raise VocoderError(
            f"{path}: found {unreadable}, a format that libsndfile does not read; convert it first: "
            f"ffmpeg -i {shlex.quote(str(path))} {wav}"
        )
    if size is not None and size.missing:
        reason += f"; cut short: found {size.present} of the {size.stated} bytes of samples that its header states"
    raise VocoderError(
        f"{path}: not a recording that can be read ({reason}); expected WAV, FLAC, Ogg, MP3 or another format of "
        "libsndfile"
    )


@cache
def _forward_file() -> type[SoundFile]:
    import soundfile  # loads libsndfile, which vocoding arrays does not need

    class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
        """Reads without seeking: after a block, seeking fails if the file is cut short."""

        def seekable(self) -> bool:
            return False

    return ForwardFile


class _Source:
    """File interface for libsndfile; ignores offsets outside the file, where Python would print a traceback."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # libsndfile stops at its estimated length, which is too short for an MP3 whose first frames are its largest.
        # A larger file size makes the estimate long enough.
        estimated = _has_estimated_length(file)
        self._beyond = _MP3_ESTIMATE_FACTOR * file.seek(0, os.SEEK_END) if estimated else 0
        self._at_end = False
        file.seek(0)

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def write(self, content: bytes) -> int:
        raise io.UnsupportedOperation("not writable")

    def tell(self) -> int:
        return self._file.tell() + (self._beyond if self._at_end else 0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at_end = whence == os.SEEK_END and offset == 0
        with suppress(OSError, ValueError, OverflowError):
            self._file.seek(offset, whence)
        return self.tell()


def _read_blocks(sound: SoundFile) -> tuple[list[FloatArray], str]:
    """Decodes and mixes down all blocks; returns them, and the error that stopped decoding, if any."""
    blocks: list[FloatArray] = []
    frames, total = max(1, _BLOCK // sound.channels), 0
    while True:
        block = np.empty((frames, sound.channels), np.float32)
        reason = ""
        try:
            found = len(sound.read(out=block))
        except RuntimeError as error:
            reason = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".") or "damaged"
            found = _found_before_error(sound, total, frames)
        blocks.append(block[:found].mean(axis=1, dtype=np.float32))
        total += found
        if not found or reason:
            return blocks, reason


def _found_before_error(sound: SoundFile, total: int, most: int) -> int:
    try:
        return int(min(max(sound.tell() - total, 0), most))
    except RuntimeError:
        return 0


def _shortage(file: BinaryIO, sound: SoundFile, size: SampleBytes | None, found: int, reason: str) -> str:
    """Returns a warning if samples are missing from the file, else an empty text."""
    rate, stated = int(sound.samplerate), 0
    if size is not None:
        if size.missing and not found:
            return f"cut short: the file has {size.present} of the {size.stated} bytes that its header states"
        if size.stated is not None and size.present:
            stated = found * size.stated // size.present
    elif sound.format == "NIST":
        stated = _nist_frames(file)
    elif found < sound.frames < _MAX_FRAMES and not _has_estimated_length(file):
        stated = int(sound.frames)
    because = f" ({reason})" if reason else ""
    if stated > found:
        return f"cut short: found {found / rate:.2f} s of the {stated / rate:.2f} s that its header states{because}"
    if reason:
        return f"damaged or cut short: it can be read for {found / rate:.2f} s and no further{because}"
    if size is None and (logged := _SHORTAGE_LOG.search(sound.extra_info)) is not None:
        return f"cut short: found {found / rate:.2f} s (libsndfile: {logged[0].strip(' *.')})"
    if sound.format == "OGG" and not _ogg_is_complete(file):
        return f"cut short: found {found / rate:.2f} s, and the Ogg stream ends before its last page"
    return ""


def _has_estimated_length(file: BinaryIO) -> bool:
    """Whether a file is an MP3 that states no length, so that libsndfile estimates it from the file size."""
    file.seek(0)
    start = file.read(10)
    if start[:3] == b"ID3":  # skips the tag, whose size has seven bits per byte
        file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(start[6:], (21, 14, 7, 0), strict=True)))
        start = file.read(4)
    else:
        file.seek(len(start[:4]))
    synchronised = len(start) >= 4 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0 and start[1] & 0x06 != 0
    return synchronised and not any(word in file.read(200) for word in (b"Xing", b"Info", b"VBRI"))


def _nist_frames(file: BinaryIO) -> int:
    """Returns the number of frames stated in a NIST SPHERE header; 0 if it states none."""
    file.seek(0)
    stated = re.search(rb"^sample_count -i ([0-9]{1,15})$", file.read(1024), re.MULTILINE)
    return int(stated[1]) if stated else 0


def _ogg_is_complete(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is complete and marked as the stream's last."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 2 * _OGG_PAGE))
    tail = file.read()
    place = tail.rfind(b"OggS\0")
    if place < 0 or len(tail) < place + 27:
        return False
    lengths = tail[place + 27 : place + 27 + tail[place + 26]]
    whole = len(lengths) == tail[place + 26] and place + 27 + len(lengths) + sum(lengths) <= len(tail)
    return whole and bool(tail[place + 5] & 4)


def _unreadable(path: str | Path, file: BinaryIO) -> str | None:
    """Returns the name of an audio format that libsndfile does not read, by content or else by suffix."""
    file.seek(0)
    start = file.read(64)
    for offset, word, name in _SIGNATURES:
        if start[offset : offset + len(word)] == word:
            return name
    return UNREADABLE.get(Path(path).suffix.lower()) if start else None
