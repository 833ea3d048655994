"""Loads the object in a checkpoint file, without running any code in the file."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import tarfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavernn_trt.export.checkpoints.archive import Member, open_tar_member, open_zip_member
from wavernn_trt.export.checkpoints.torch_file import (
    RESAVE,
    TORCH_MAGIC,
    check_zip,
    damaged,
    load_torch_file,
    refuse_plain_pickle,
)
from wavernn_trt.export.errors import CheckpointError, printable

_ZIP = b"PK"
_PICKLE = b"\x80"
_GZIP = b"\x1f\x8b"
_START = 4096
_LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; the format's own limit."""
_EXPECTED = "expected a checkpoint that torch.save wrote, or safetensors"
_LFS = b"version https://git-lfs"
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html|<\?xml|<head|<body)", re.IGNORECASE)
_TENSORFLOW = re.compile(r".*\.(?:index|meta|pb|data-\d+-of-\d+)")
_TEXT = bytes({*range(32, 127), *b"\t\n\r"})
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF", "an HDF5 file (Keras)", "convert the weights to PyTorch; no WaveRNN that is read here uses Keras"),
    (b"\x93NUMPY", "a numpy array", "give the checkpoint; a mel is an input of vocode"),
    (b"RIFF", "a recording", "give the checkpoint; a recording is an input of vocode"),
    (b"fLaC", "a recording", "give the checkpoint; a recording is an input of vocode"),
    (b"OggS", "a recording", "give the checkpoint; a recording is an input of vocode"),
    (b"BZh", "a bzip2 archive", "unpack it and give the checkpoint inside"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and give the checkpoint inside"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it and give the checkpoint inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the checkpoint inside"),
    (b"Rar!", "a RAR archive", "unpack it and give the checkpoint inside"),
    (b"model_checkpoint_path:", "the index of TensorFlow checkpoints", "give the checkpoint of a PyTorch training"),
)


@dataclass(frozen=True)
class FileContent:
    """The object in a checkpoint file."""

    name: str
    """The file's name for messages, followed by the member's in an archive."""
    value: Any
    """Usually a mapping. Numpy's values in it are those of `pickled_numpy`."""
    size: int
    """Maximum bytes of its tensors."""
    entry: str | None = None
    """The entry to read in ``value``."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Settings files beside it in an archive: name and text."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of a safetensors file."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def read_checkpoint_file(path: Path, entry: str | None = None) -> FileContent:
    """Loads a checkpoint file, on the CPU and with ``weights_only=True``; the kind of file follows from its content.

    Args:
        path: a file that ``torch.save`` wrote, in either of its formats, safetensors, ``.npz``, or a zip or tar
            archive with one of these inside.
        entry: the user's choice of an entry; in an archive with several checkpoints, the name of one.

    Raises:
        CheckpointError: no such file, not a checkpoint, damaged, or more than weights in it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; expected a checkpoint that torch.save wrote")
    try:
        with path.open("rb") as file:
            return _read(str(path), file, entry, archives=True)
    except MemoryError:
        raise CheckpointError(
            f"{path} does not fit into memory, expected a checkpoint that does; free some, or copy the file again in "
            "case it is damaged"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected a checkpoint file") from None


def _read(name: str, file: BinaryIO, entry: str | None, archives: bool) -> FileContent:
    start = file.read(_START)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not start:
        raise CheckpointError(f"{name} is empty, expected a checkpoint that torch.save wrote; copy the file again")
    header = _safetensors_header(name, start, size)
    if header:
        return _read_safetensors(name, file, size, header, entry)
    refusal = _refuse_other_file(name.replace("\\", "/").rsplit("/", 1)[-1], start)
    if refusal:
        raise CheckpointError(f"{name}: {refusal}")
    if start[:2] == _ZIP:
        kind, size = check_zip(name, file)
        if kind == "numpy":
            return FileContent(name, _read_npz(name, file), size, entry)
        if kind == "other":
            return _read_inside(name, file, size, entry, archives)
    elif start[:2] == _GZIP or start[257:262] == b"ustar":
        return _read_inside(name, file, size, entry, archives)
    elif start[:1] != _PICKLE:
        raise CheckpointError(
            f"{name}: found neither a zip archive nor a pickle, expected a checkpoint that torch.save wrote; "
            "give the .pt, .pth or .pyt file itself"
        )
    elif TORCH_MAGIC not in start[:32]:
        refuse_plain_pickle(name, file)
    return FileContent(name, load_torch_file(name, file), size, entry)


def _read_inside(name: str, file: BinaryIO, size: int, entry: str | None, archives: bool) -> FileContent:
    if not archives:
        raise CheckpointError(f"{name}: found an archive inside an archive, expected a checkpoint; unpack it first")
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    try:
        opened: AbstractContextManager[Member]
        opened = open_zip_member(name, file, entry) if start == _ZIP else open_tar_member(name, file, size, entry)
        with opened as member:
            inner = printable(member.name)
            content = _read(f"{name}: {inner}", member.file, member.entry, archives=False)
            note = f"read {inner} inside {Path(name).name}"
            return FileContent(
                content.name, content.value, content.size, content.entry, member.texts, content.metadata, (note,)
            )
    except (CheckpointError, MemoryError):
        raise
    except tarfile.ReadError:
        if start == _GZIP:
            raise CheckpointError(
                f"{name}: found a gzip file that is no tar archive, expected a checkpoint; unpack it with gunzip, and "
                "give the file inside"
            ) from None
        raise damaged(name) from None
    except Exception as error:  # zipfile, zlib and tarfile have many errors for damage
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise  # no room for the temporary file, for instance
        raise damaged(name) from None


def _read_npz(name: str, file: BinaryIO) -> Any:
    try:
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # numpy raises several kinds for damage, and ValueError for pickled objects
        raise CheckpointError(
            f"{name}: found numpy arrays that are damaged or hold Python objects, expected numbers only; "
            f"copy the file again, or {RESAVE}"
        ) from None


def _safetensors_header(name: str, start: bytes, size: int) -> int:
    """Returns the size of a safetensors header in bytes; 0 for other files."""
    if start[8:9] != b"{":
        return 0
    length = int(struct.unpack("<Q", start[:8])[0])
    if not 2 <= length <= _LARGEST_HEADER:
        return 0
    if length > size - 8:
        raise CheckpointError(f"{name} is incomplete, expected all of a safetensors file; copy the file again")
    return length


def _read_safetensors(name: str, file: BinaryIO, size: int, header: int, entry: str | None) -> FileContent:
    try:
        from safetensors.torch import load
    except ImportError:
        raise CheckpointError(f"{name} needs safetensors to be read: pip install safetensors") from None
    try:
        content = file.read()
        metadata = json.loads(content[8 : 8 + header]).get("__metadata__") or {}
        return FileContent(name, load(content), size, entry, metadata={k: str(v) for k, v in metadata.items()})
    except MemoryError:
        raise
    except Exception as error:  # safetensors raises its own kinds for a damaged header
        raise CheckpointError(
            f"{name} is damaged, expected a safetensors file: {str(error)[:100]}; copy the file again"
        ) from None


def _refuse_other_file(name: str, start: bytes) -> str | None:
    """Returns the error text for a file that is no checkpoint; ``None`` where it could be one.

    Args:
        name: the file's name without its folder.
        start: its first 512 bytes.
    """
    for magic, found, way_out in _STARTS:
        if start.startswith(magic):
            return f"found {found}, {_EXPECTED}; {way_out}"
    if start.startswith(_LFS):
        return (
            f"found a Git LFS pointer, which stands for a file that was not downloaded, {_EXPECTED}; "
            "run git lfs pull in that repository, or download the file itself"
        )
    if _PAGE.match(start):
        return (
            f"found a web page, which was saved in place of the file, {_EXPECTED}; download it again with the link of "
            "the file itself (a page may ask for a login or a confirmation first)"
        )
    if _TENSORFLOW.fullmatch(name) and start[:2] != b"PK" and start[:1] != b"\x80":
        return f"found a file of a TensorFlow checkpoint, {_EXPECTED}; give the checkpoint of a PyTorch training"
    if name.endswith(".onnx") or (start[:1] == b"\x08" and start[2:3] == b"\x12" and start[1] < 32):
        return (
            f"found an ONNX graph, {_EXPECTED}; give the checkpoint that it was exported from "
            "(a model directory of wavernn-trt export is given as the folder)"
        )
    if start and not start.strip(_TEXT):
        return _refuse_text(start)
    return None


def _refuse_text(start: bytes) -> str:
    if b'"weight_map"' in start:
        return (
            f"found the index of weights that are split over several files, {_EXPECTED}; merge them into one file "
            "with safetensors.torch.save_file or torch.save"
        )
    words = " ".join(start.decode("ascii").split())[:50]
    return (
        f"found text ({words!r}), {_EXPECTED}; if it is a settings file, name it with config, and give the weights' "
        "file here; if it should be the checkpoint, the download failed: repeat it"
    )
