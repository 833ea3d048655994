"""Files that no recording can be read from: formats without a decoder here, and what is no regular file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wavernn_trt.runtime.errors import VocoderError

UNREADABLE = {
    ".3gp": "3GPP",
    ".aac": "AAC",
    ".ac3": "AC-3",
    ".amr": "AMR",
    ".ape": "Monkey's Audio",
    ".m4a": "MPEG-4 (AAC or ALAC)",
    ".m4b": "MPEG-4 (AAC or ALAC)",
    ".mka": "Matroska",
    ".mkv": "Matroska",
    ".mov": "QuickTime",
    ".mp4": "MPEG-4 (AAC or ALAC)",
    ".spx": "Speex",
    ".tta": "True Audio",
    ".webm": "WebM",
    ".wma": "Windows Media Audio",
    ".wv": "WavPack",
}
"""Suffixes of audio that libsndfile does not read, and the formats' names."""


def check_regular(path: str | Path) -> None:
    """Refuses what is not a regular file; opening a pipe would wait for its writer for ever.

    Raises:
        VocoderError: not there, or a folder, pipe or device.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe or device"
        raise VocoderError(f"{path}: found a {kind}, expected a regular file")
