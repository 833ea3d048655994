"""Recognition of recordings and mels by file name, and a summary of the files that are neither."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from wavernn_trt.runtime.files.recording import recording_seconds

MEL_SUFFIXES = (".npy", ".npz", ".pt", ".pth")
"""Suffixes of mel spectrograms: numpy's files and PyTorch's."""

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
"""Suffixes that are also used by other file formats: accepted if libsndfile opens the file."""

_MAX_NAMES = 5
"""Files left out that a summary lists by name."""


@cache
def recording_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of recordings that the installed libsndfile reads, in lower case, WAV first.

    Formats without a header and suffixes that other formats share are not included (see `is_input`).
    """
    return _offered(_SUFFIXES)


def is_recording(path: str | PurePath) -> bool:
    """Whether a file name has the suffix of a recording."""
    return _suffix(path) in recording_suffixes()


def is_mel(path: str | PurePath) -> bool:
    """Whether a file name has the suffix of a mel spectrogram."""
    return _suffix(path) in MEL_SUFFIXES


def is_input(path: str, *, mels: bool = True) -> bool:
    """Whether a regular file is a recording or, with ``mels``, a mel; opens it if its suffix is ambiguous."""
    if is_recording(path) or (mels and is_mel(path)):
        return True
    if _suffix(path) not in _offered(_SHARED_SUFFIXES):
        return False
    return recording_seconds(Path(path)) > 0


def describe_inputs(*, mels: bool = True) -> str:
    """Describes the accepted kinds of files, for error messages."""
    recordings = "recordings (.wav, .flac, .mp3, .ogg or another format of libsndfile)"
    return f"{recordings} or mels ({', '.join(MEL_SUFFIXES)})" if mels else recordings


class LeftOut:
    """Count of files left out of a folder search, by suffix, with the first few names.

    ``mels`` states whether the search accepts mels.
    """

    def __init__(self, *, mels: bool = True) -> None:
        self.kinds: Counter[str] = Counter()
        self.names: list[str] = []
        self._expected = "recording or mel" if mels else "recording"

    def __len__(self) -> int:
        return self.kinds.total()

    def add(self, path: str) -> None:
        """Counts a file unless it is hidden."""
        if os.path.basename(path).startswith("."):
            return
        self.kinds[_kind(path)] += 1
        if len(self.names) < _MAX_NAMES:
            self.names.append(path)

    def summary(self) -> str:
        """Returns a sentence with the number, the suffixes and the first names."""
        count = len(self)
        files = "1 file that is" if count == 1 else f"{count} files that are"
        kinds = ", ".join(f"{kind} {number}" for kind, number in self.kinds.most_common(10))
        more = ", …" if count > len(self.names) else ""
        return f"left out {files} no {self._expected}: {kinds} ({', '.join(self.names)}{more})"

    def row(self) -> dict[str, Any]:
        """Returns the summary as JSON values."""
        return {"files": len(self), "kinds": dict(self.kinds.most_common()), "first": list(self.names)}


def find_files(folder: Path, *, mels: bool = True, beneath: bool = True) -> tuple[list[Path], LeftOut]:
    """Returns the recordings of a folder, sorted, and a summary of its other files; hidden files are skipped.

    Args:
        folder: the folder to search.
        mels: whether mel spectrograms are accepted as well.
        beneath: whether subfolders are searched.
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
