"""Recordings and mels that a command was given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def find_recordings(inputs: Sequence[Path], *, mels: bool = False) -> list[Path]:
    """The files that inputs mean, those of a folder by name; a warning names what is left out of a folder.

    Args:
        inputs: files, and folders of them.
        mels: whether mel spectrograms will do as well; of a folder only where it has no recordings.

    Raises:
        VocoderError: a folder without any, none of the files exists, or a mel where only recordings will do.
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
            raise VocoderError(f"{path}: found a mel spectrogram, expected a recording: its samples are needed")
        else:
            found.append(path)
    if not any(path.exists() for path in found):
        raise VocoderError(f"{found[0]}: no such file or folder; expected recordings, or folders of them")
    return found
