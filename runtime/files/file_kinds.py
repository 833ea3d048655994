"""Files that cannot be read as recordings: formats without a decoder, and paths that are not regular files."""

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
"""Suffixes and names of audio formats that libsndfile does not read."""


def check_regular(path: str | Path) -> None:
    """Checks that a path is a regular file; opening a pipe would wait for its writer without end.

    Raises:
        VocoderError: the path does not exist, or is a folder, pipe or device.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe or device"
        raise VocoderError(f"{path}: found a {kind}, expected a regular file")
