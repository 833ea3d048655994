"""Which files are read as recordings or mels, and an account of those that are not."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from wavernn_trt.runtime.files.recording import recording_seconds

MEL_SUFFIXES = (".npy", ".npz", ".pt", ".pth")
"""Mel spectrograms: numpy's files and PyTorch's."""

_SUFFIXES = {
    "AIFF": (".aif", ".aiff", ".aifc"),
    "AU": (".au", ".snd"),
    "AVR": (".avr",),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "MP3": (".mp3", ".mp2", ".mpga"),
    "NIST": (".nist", ".sph"),
    "OGG": (".ogg", ".oga", ".opus"),
    "PAF": (".paf",),
    "PVF": (".pvf",),
    "RF64": (".rf64",),
    "SDS": (".sds",),
    "SVX": (".8svx", ".16sv", ".svx"),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave"),
    "WAVEX": (".wav", ".wave"),
    "WVE": (".wve",),
}
"""libsndfile's formats and the suffixes of their files."""
_SHARED_SUFFIXES = {
    "HTK": (".htk",),
    "IRCAM": (".sf", ".ircam"),
    "MAT4": (".mat",),
    "MAT5": (".mat",),
    "MPC2K": (".mpc",),
    "SVX": (".iff",),
    "XI": (".xi",),
}
"""Suffixes that files of other kinds have as well: in a folder, those are taken that libsndfile opens."""


_NAMES = 5
"""Files left out that are named."""


@cache
def recording_suffixes() -> tuple[str, ...]:
    """Suffixes of the recordings that the installed libsndfile reads, in lower case, WAV first.

    Files without a header are not among them, nor are suffixes that other kinds of files have (see `is_input`).
    """
    return _offered(_SUFFIXES)


def is_recording(path: str | PurePath) -> bool:
    """Whether a file's name is that of a recording."""
    return _suffix(path) in recording_suffixes()


def is_mel(path: str | PurePath) -> bool:
    """Whether a file's name is that of a mel spectrogram."""
    return _suffix(path) in MEL_SUFFIXES


def is_input(path: str, *, mels: bool = True) -> bool:
    """Whether a regular file of a folder is a recording or a mel; a few kinds of names are decided by content.

    Args:
        path: the file.
        mels: whether mel spectrograms are taken.
    """
    if is_recording(path) or (mels and is_mel(path)):
        return True
    if _suffix(path) not in _offered(_SHARED_SUFFIXES):
        return False
    return recording_seconds(Path(path)) > 0


def describe_inputs(*, mels: bool = True) -> str:
    """The kinds of files that are read, for an error."""
    recordings = "recordings (.wav, .flac, .mp3, .ogg or another format of libsndfile)"
    return f"{recordings} or mels ({', '.join(MEL_SUFFIXES)})" if mels else recordings


class LeftOut:
    """Files of folders that were left out: how many of which suffix, and the first of them by name."""

    def __init__(self, *, mels: bool = True) -> None:
        """Begins with none.

        Args:
            mels: whether mels are among what is taken.
        """
        self.kinds: Counter[str] = Counter()
        self.names: list[str] = []
        self._expected = "recording or mel" if mels else "recording"

    def __len__(self) -> int:
        return self.kinds.total()

    def add(self, path: str) -> None:
        """Counts a file, unless it is hidden."""
        if os.path.basename(path).startswith("."):
            return
        self.kinds[_kind(path)] += 1
        if len(self.names) < _NAMES:
            self.names.append(path)

    def summary(self) -> str:
        """For people: the number, the suffixes and the first names."""
        count = len(self)
        files = "1 file that is" if count == 1 else f"{count} files that are"
        kinds = ", ".join(f"{kind} {number}" for kind, number in self.kinds.most_common(10))
        more = ", …" if count > len(self.names) else ""
        return f"left out {files} no {self._expected}: {kinds} ({', '.join(self.names)}{more})"

    def row(self) -> dict[str, Any]:
        """As JSON has them."""
        return {"files": len(self), "kinds": dict(self.kinds.most_common()), "first": list(self.names)}


def find_files(folder: Path, *, mels: bool = True, beneath: bool = True) -> tuple[list[Path], LeftOut]:
    """The recordings of a folder by name, and an account of its other files; hidden files are passed over.

    Args:
        folder: where to look.
        mels: whether mel spectrograms are taken as well.
        beneath: whether folders in the folder are searched.
    """
    found, left_out = [], LeftOut(mels=mels)
    for path in sorted(folder.rglob("*") if beneath else folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.is_file() and is_input(str(path), mels=mels):
            found.append(path)
        elif not any(part.startswith(".") for part in path.relative_to(folder).parts):
            left_out.add(str(path))
    return found, left_out


@cache
def _available() -> frozenset[str]:
    import soundfile  # loads libsndfile, which vocoding arrays does not need

    return frozenset(soundfile.available_formats())


def _offered(suffixes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    found = {suffix for name, names in suffixes.items() if name in _available() for suffix in names}
    return tuple(sorted(found, key=lambda suffix: (not suffix.startswith(".wav"), suffix)))


def _suffix(path: str | PurePath) -> str:
    return os.path.splitext(path)[1].lower()


def _kind(path: str) -> str:
    if os.path.isfile(path):
        return _suffix(path) or "no suffix"
    if os.path.isdir(path):
        return "link to a folder"
    return "pipe or device" if os.path.exists(path) else "broken link"
