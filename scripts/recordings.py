"""Recordings that a command was given: finding them, reading them, and a bar of how many seconds of them are done."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from wavernn_trt.export.config import AudioConfig

logger = logging.getLogger(__name__)

_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"


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


class SecondsBar:
    """Seconds of speech done, on stderr."""

    def __init__(
        self, title: str, files: Iterable[Path], audio: AudioConfig, *, limit: float | None = None, hidden: bool = False
    ) -> None:
        """Begins.

        Args:
            title: what stands before the bar.
            files: what is to be done.
            audio: the model's audio settings.
            limit: seconds of each file, at most.
            hidden: show nothing.
        """
        from tqdm import tqdm

        from wavernn_trt.scripts.work_estimate import estimate_seconds

        self._rate = audio.sample_rate
        known = [0.0] if hidden else [estimate_seconds(file, audio) for file in files]
        total = sum(seconds if limit is None else min(seconds, limit) for seconds in known)
        self._bar = tqdm(total=total, desc=title, disable=hidden, bar_format=_BAR, dynamic_ncols=True)

    def __enter__(self) -> SecondsBar:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def entitle(self, title: str) -> None:
        """Puts another title before the bar."""
        self._bar.set_description_str(title)

    def advance(self, samples: int) -> None:
        """Tells of more samples, at the model's rate."""
        seconds = samples / self._rate
        if self._bar.total is not None:  # headers may undersell, and the model's delay is spoken too
            self._bar.total = max(self._bar.total, self._bar.n + seconds)
        self._bar.update(seconds)
