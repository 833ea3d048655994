"""Opens the one checkpoint inside a zip or tar archive, and the settings files beside it.

Names inside an archive are never used as paths. Members are unpacked to a temporary file without a name, and their size
is limited by the archive's.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from wavernn_trt.export.errors import CheckpointError, listed, printable

_CHECKPOINTS = (".pt", ".pth", ".pyt", ".ckpt", ".bin", ".pth.tar", ".safetensors")
_SETTINGS = (".json", ".yaml", ".yml", ".py", ".toml", ".cfg", ".ini", ".txt")
_LARGEST_TEXT = 256 << 10
_MOST_TEXTS = 32
_MOST_MEMBERS = 10_000
_RATIO = 50
"""Largest accepted compression ratio; weights compress to about nine tenths, an optimizer's zeros further."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Member:
    """A checkpoint inside an archive."""

    name: str
    """Its name in the archive."""
    file: BinaryIO
    """A temporary file with its content, positioned at the start."""
    size: int
    """Bytes."""
    entry: str | None
    """The entry to read inside the checkpoint."""
    texts: dict[str, str]
    """Settings files in the archive: name and text."""


@dataclass(frozen=True)
class _Stored:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


@contextmanager
def open_zip_member(name: str, file: BinaryIO, entry: str | None) -> Iterator[Member]:
    """Opens the one checkpoint in a zip archive, or the one that ``entry`` names.

    Args:
        name: the archive's name, for messages.
        file: the archive.
        entry: the checkpoint's name in the archive, ``NAME:ENTRY``, or an entry of the only checkpoint.

    Raises:
        CheckpointError: no checkpoint, several, an encrypted, damaged or absurdly compressed one.
    """
    with zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        check_ratio(name, sum(info.file_size for info in infos), sum(info.compress_size for info in infos))
        if any(info.flag_bits & 1 for info in infos):
            raise CheckpointError(f"{name}: found an encrypted zip archive; unpack it with its password first")
        stored = [_Stored(info.filename, info.file_size, partial(archive.open, info)) for info in infos]
        with _open_member(name, "zip", stored, entry) as member:
            yield member


@contextmanager
def open_tar_member(name: str, file: BinaryIO, size: int, entry: str | None) -> Iterator[Member]:
    """Like `open_zip_member`, for a tar archive of ``size`` bytes, plain or compressed."""
    stored = []
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for info in archive:
            check_ratio(name, info.offset_data + info.size, size)
            if info.isreg():
                stored.append(_Stored(info.name, info.size, partial(_extract, archive, info)))
            if len(stored) > _MOST_MEMBERS:
                raise CheckpointError(f"{name}: found more than {_MOST_MEMBERS} files in it; unpack it first")
        _read_to_end(name, archive, size)  # the checksum of a compressed archive is at its end
        with _open_member(name, "tar", stored, entry) as member:
            yield member


def check_ratio(name: str, size: int, compressed: int) -> None:
    """Refuses an archive with a higher compression ratio than weights can have."""
    if size > _RATIO * compressed + _PIECE:
        raise CheckpointError(
            f"{name}: {compressed} bytes claim to unpack to {size}, expected at most {_RATIO} times as many, as "
            "weights hardly compress; do not unpack this archive, get the checkpoint from its source again"
        )


def _read_to_end(name: str, archive: tarfile.TarFile, size: int) -> None:
    stream = archive.fileobj
    while stream is not None and stream.read(_PIECE):
        check_ratio(name, stream.tell(), size)


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    if file is None:
        raise tarfile.TarError(info.name)
    return file


@contextmanager
def _open_member(name: str, kind: str, stored: Sequence[_Stored], entry: str | None) -> Iterator[Member]:
    chosen, inner = _choose(name, kind, stored, entry)
    texts = {}
    for each in stored:
        if _is_visible(each.name) and each.name.lower().endswith(_SETTINGS) and each.size <= _LARGEST_TEXT:
            with each.open() as source:
                text = source.read(_LARGEST_TEXT)
            try:
                texts[each.name] = text.decode("utf-8-sig")
            except UnicodeDecodeError:
                continue
            if len(texts) == _MOST_TEXTS:
                break
    with tempfile.TemporaryFile() as target, chosen.open() as source:
        size = 0
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > chosen.size:
                raise CheckpointError(
                    f"{name}: {printable(chosen.name)} is larger than the archive states; it is damaged"
                )
            target.write(piece)
        target.seek(0)
        yield Member(chosen.name, target, size, inner, texts)


def _choose(name: str, kind: str, stored: Sequence[_Stored], entry: str | None) -> tuple[_Stored, str | None]:
    """Returns the checkpoint to read and the entry inside it."""
    if entry is not None:
        for each in stored:
            for name_of in (each.name, Path(each.name).name):
                if entry == name_of:
                    return each, None
                if entry.startswith(f"{name_of}:"):
                    return each, entry.removeprefix(f"{name_of}:")
    found = [each for each in stored if _is_visible(each.name) and each.name.lower().endswith(_CHECKPOINTS)]
    found = [each for each in found if "optim" not in Path(each.name).name.lower()] or found
    if not found:
        raise CheckpointError(
            f"{name}: found a {kind} archive without a checkpoint ({_some(stored)}), expected one of "
            f"{' '.join(_CHECKPOINTS)} in it; give the checkpoint itself"
        )
    if len(found) > 1:
        raise CheckpointError(
            f"{name}: found a {kind} archive with {len(found)} checkpoints ({_some(found)}), expected one; choose with "
            "--entry NAME, or unpack it and give the one"
        )
    return found[0], entry


def _is_visible(name: str) -> bool:
    return not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")


def _some(stored: Sequence[_Stored]) -> str:
    return listed([printable(each.name) for each in stored], 8) or "it is empty"
