"""Writes the WAV file of a long utterance while it is decoded, so that its waveform is never whole in memory."""

from __future__ import annotations

import struct
from pathlib import Path

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.files.output_files import WholeFile
from wavernn_trt.runtime.streaming.pcm import to_int16

_MAX_BYTES = 2**32 - 1
"""The header's fields have 32 bits."""


class LongWav:
    """A sink (`wavernn_trt.runtime.scheduling.sinks.Sink`) that writes a mono WAV file of 16-bit integers.

    `file` is complete, and neither flushed nor published, when the utterance has ended; if that ended with an error, it
    is discarded. A write waits for the disk only if the operating system's buffers are full.
    """

    def __init__(self, path: Path, samples: int, sample_rate: int) -> None:
        """Creates the file and writes its header.

        Args:
            path: the file's final name.
            samples: of the whole waveform; see `fits`.
            sample_rate: Hz.

        Raises:
            OSError: the file cannot be created or written.
        """
        self.samples = 0
        """Samples written."""
        self.clipped = 0
        """Samples outside [-1, 1]."""
        self.file = WholeFile(path)
        size = 2 * samples
        pcm = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
        self.file.write(struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + pcm + struct.pack("<4sI", b"data", size))

    @staticmethod
    def fits(samples: int) -> bool:
        """Whether a WAV file's header can state this number of 16-bit samples."""
        return 36 + 2 * samples <= _MAX_BYTES

    def room(self) -> None:
        return None  # no bound

    def urgent(self) -> bool:
        return False

    def write(self, samples: FloatArray) -> None:
        self.samples += len(samples)
        self.clipped += int((abs(samples) > 1).sum())
        self.file.write(to_int16(samples).tobytes())

    def finish(self, error: BaseException | None) -> None:
        if error is not None:
            self.file.discard()
