"""Finds the recordings and mels among a command's arguments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def find_recordings(inputs: Sequence[Path], *, mels: bool = False) -> list[Path]:
    """Returns the given files and the files in the given folders; logs which files of a folder are left out.

    Args:
        inputs: files, and folders of them.
        mels: whether mels are accepted too; those of a folder only if it has no recordings.

    Raises:
        VocoderError: a folder has no suitable file, no file exists, or a mel was given and is not accepted.
    """
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.input_files import describe_inputs, find_files, is_mel

    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside, left_out = find_files(path, mels=False)
            if mels and not inside:
                inside, left_out = find_files(path)
            if not inside:
                others = f"; {left_out.summary()}" if left_out else ""
                raise VocoderError(f"{path}: found no {describe_inputs(mels=mels)} in this folder{others}")
            if left_out:
                logger.warning("%s: %s", path, left_out.summary())
            found += inside
        elif is_mel(path) and not mels:
            raise VocoderError(f"{path}: found a mel spectrogram, expected a recording")
        else:
            found.append(path)
    if not any(path.exists() for path in found):
        raise VocoderError(f"{found[0]}: no such file or folder; expected recordings, or folders of them")
    return found
