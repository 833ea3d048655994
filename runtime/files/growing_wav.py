"""A WAV file that is written piece by piece, for speech of unknown length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.files.output_files import WholeFile
from wavernn_trt.runtime.streaming.pcm import to_int16

_MOST_BYTES = 2**32 - 1 - 36
"""Of samples: sizes are 32-bit numbers in a WAV file."""


class GrowingWav:
    """A mono WAV file of 16-bit samples; `growing_wav` publishes it."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        """Creates the file under a temporary name.

        Raises:
            OSError: the file cannot be created.
        """
        self._file = WholeFile(path)
        self._rate = sample_rate
        self._bytes = 0
        self._file.write(self._header())

    def write(self, waveform: FloatArray) -> None:
        """Appends float32 [samples], clipped to [-1, 1].

        Raises:
            OSError: the file cannot be written.
            ValueError: it would be longer than a WAV file can be, 37 hours at 16 kHz.
        """
        content = to_int16(waveform).astype("<i2").tobytes()
        if self._bytes + len(content) > _MOST_BYTES:
            raise ValueError(f"{self._file.path}: a WAV file holds 4 GiB at most; divide the text")
        self._bytes += len(content)
        self._file.write(content)

    def publish(self) -> None:
        """Completes the header and renames the file to its own name."""
        self._file.rewrite_beginning(self._header())
        self._file.publish()

    def discard(self) -> None:
        """Removes the temporary file."""
        self._file.discard()

    def _header(self) -> bytes:
        riff = struct.pack("<4sI4s", b"RIFF", 36 + self._bytes, b"WAVE")
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, self._rate, 2 * self._rate, 2, 16)
        return riff + form + struct.pack("<4sI", b"data", self._bytes)


@contextmanager
def growing_wav(path: Path, sample_rate: int) -> Iterator[GrowingWav]:
    """Yields a WAV file to append to. It gets its name at the end; after an error there is none.

    Raises:
        OSError: the file cannot be written.
    """
    wav = GrowingWav(path, sample_rate)
    try:
        yield wav
        wav.publish()
    except BaseException:
        wav.discard()
        raise
