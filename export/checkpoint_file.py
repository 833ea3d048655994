"""Loads the object that a checkpoint file holds, without running anything that the file may hold."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import re
import struct
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from wavernn_trt.export.checkpoint_archive import Member, check_ratio, open_tar_member, open_zip_member
from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.other_files import refuse_other_file
from wavernn_trt.export.pickled_classes import RESAVE, named_classes, refuse_classes
from wavernn_trt.export.pickled_numpy import STAND_INS, STOOD_FOR

_ZIP = b"PK"
_PICKLE = b"\x80"
_GZIP = b"\x1f\x8b"
_TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that begins a file from before torch 1.6."""
_NAMED = re.compile(r"GLOBAL (\S+)")
"""In torch's message, the class that it refuses."""
_START = 4096
_LARGEST_HEADER = 100 << 20
"""Of a safetensors file, bytes; the format's own limit."""
_stand_ins_lock = threading.Lock()


@dataclass(frozen=True)
class FileContent:
    """The object in a checkpoint file."""

    name: str
    """Of the file, for messages; with the member's where it stands in an archive."""
    value: Any
    """A mapping as a rule. Numpy's values in it are those of `pickled_numpy`."""
    size: int
    """Bytes that its tensors can fill at most."""
    entry: str | None = None
    """The entry to read in ``value``."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Settings files that stand beside it in an archive: name and text."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of a safetensors file."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def read_checkpoint_file(path: Path, entry: str | None = None) -> FileContent:
    """Loads a checkpoint file, on the CPU and with ``weights_only=True``; the kind of file follows from its content.

    Args:
        path: a file that ``torch.save`` wrote, in either of its formats, safetensors, ``.npz``, or a zip or tar
            archive with one of these inside.
        entry: of the user; in an archive with several checkpoints the name of one.

    Raises:
        CheckpointError: no such file, not a checkpoint, damaged, or more than weights in it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; expected a checkpoint that torch.save wrote")
    try:
        with path.open("rb") as file:
            return _read(str(path), file, entry, archives=True)
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
    refusal = refuse_other_file(name.replace("\\", "/").rsplit("/", 1)[-1], start)
    if refusal:
        raise CheckpointError(f"{name}: {refusal}")
    if start[:2] == _ZIP:
        kind, size = _check_zip(name, file)
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
    elif _TORCH_MAGIC not in start[:32]:
        _refuse_plain_pickle(name, file)
    return FileContent(name, _load(name, file), size, entry)


# Torch's two formats


def _load(name: str, file: BinaryIO) -> Any:
    try:
        try:
            return _torch_load(file, nullcontext())
        except pickle.UnpicklingError as error:
            # The list of what torch may load is the whole process's: it is changed for the files that need it only.
            named = _NAMED.search(str(error))
            if named is None or STOOD_FOR.isdisjoint((named[1], f"builtins.{named[1]}")):
                raise
        with _stand_ins_lock:
            return _torch_load(file, torch.serialization.safe_globals([*STAND_INS]))
    except pickle.UnpicklingError as error:
        raise _refuse_pickle(name, file, str(error)) from None
    except MemoryError:
        raise CheckpointError(
            f"{name} does not fit into memory, expected a checkpoint that does; free some, or copy the file again in "
            "case it is damaged"
        ) from None
    # A damaged pickle can make torch raise almost anything; every one of them means the same to the user.
    except Exception:
        raise _damaged(name) from None


def _torch_load(file: BinaryIO, allowed: AbstractContextManager[Any]) -> Any:
    file.seek(0)
    with warnings.catch_warnings(), allowed:
        warnings.simplefilter("ignore")  # of a damaged file torch says that its pickle protocol is a strange one
        return torch.load(file, map_location="cpu", weights_only=True)


def _refuse_pickle(name: str, file: BinaryIO, reason: str) -> CheckpointError:
    """Torch's reasons, told apart: an unknown class, a pickle protocol that it does not read, or damage."""
    file.seek(0)
    try:
        if file.read(2) == _ZIP:
            with zipfile.ZipFile(file) as archive:
                records = [each for each in archive.namelist() if each.endswith("/data.pkl")]
                with archive.open(records[0]) as record:
                    classes, protocol = named_classes(record), _protocol(archive.read(records[0]))
        else:
            file.seek(0)
            protocol = _protocol(file.read(2))
            file.seek(0)
            classes = named_classes(file)
    except Exception:  # damaged after all
        return _damaged(name)
    if "global" in reason.lower():
        return CheckpointError(f"{name}: {refuse_classes(classes)}")
    if protocol in (3, 4, 5) and "operand" in reason:
        return CheckpointError(
            f"{name}: found pickle protocol {protocol}, expected 2, which torch.save writes by default and which can "
            f"be read without running code; {RESAVE}, without pickle_protocol"
        )
    return _damaged(name)


def _protocol(pickled: bytes) -> int:
    return pickled[1] if pickled[:1] == _PICKLE and len(pickled) > 1 else 0


def _refuse_plain_pickle(name: str, file: BinaryIO) -> None:
    try:
        for _ in pickletools.genops(file):
            pass
    except Exception:  # no whole pickle either
        raise _damaged(name) from None
    file.seek(0)
    classes = named_classes(file)
    reason = f"found a pickle that torch.save did not write, expected one that it did; {RESAVE}"
    raise CheckpointError(f"{name}: {refuse_classes(classes) if classes else reason}")


def _check_zip(name: str, file: BinaryIO) -> tuple[str, int]:
    """Whether a zip archive is ``torch.save``'s, ``numpy``'s or some ``other``, and its size unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            size = sum(info.file_size for info in archive.infolist())
            check_ratio(name, size, sum(info.compress_size for info in archive.infolist()))
            root = next((each[: -len("data.pkl")] for each in names if each.endswith("/data.pkl")), None)
            if root is None or root.count("/") != 1:
                if any(each.endswith("/archive_format") for each in names):
                    raise CheckpointError(
                        f"{name}: found a program that torch.export saved, expected weights only; "
                        "save model.state_dict() of the model that was exported"
                    )
                return ("numpy" if names and all(each.endswith(".npy") for each in names) else "other"), size
            if f"{root}constants.pkl" in names or any(each.startswith(f"{root}code/") for each in names):
                raise CheckpointError(
                    f"{name}: found a TorchScript archive, which is a program, expected weights only; "
                    "save model.state_dict() of the model that was scripted"
                )
            # Torch does not compare the checksums, and so would take flipped bits for weights.
            wrong = archive.testzip()
    except CheckpointError:
        raise
    except Exception:
        raise _damaged(name) from None
    if wrong is not None:
        raise CheckpointError(
            f"{name} is damaged: {wrong} does not have the checksum that it was stored with; copy the file again "
            "(if it was saved under torch.serialization.set_crc32_options(False), save it again without)"
        )
    return "torch", size


# Other formats


def _read_inside(name: str, file: BinaryIO, size: int, entry: str | None, archives: bool) -> FileContent:
    if not archives:
        raise CheckpointError(f"{name}: found an archive inside an archive, expected a checkpoint; unpack it first")
    start = file.read(2)
    file.seek(0)
    try:
        opened: AbstractContextManager[Member]
        opened = (
            open_zip_member(name, file, entry)
            if start == _ZIP
            else open_tar_member(name, file, file.seek(0, os.SEEK_END), entry)
        )
        file.seek(0)
        with opened as member:
            content = _read(f"{name}: {member.name}", member.file, member.entry, archives=False)
            note = f"read {member.name} inside {Path(name).name}"
            return FileContent(
                content.name, content.value, content.size, content.entry, member.texts, content.metadata, (note,)
            )
    except CheckpointError:
        raise
    except tarfile.ReadError:
        if start == _GZIP:
            raise CheckpointError(
                f"{name}: found a gzip file that is no tar archive, expected a checkpoint; unpack it with gunzip, and "
                "give the file inside"
            ) from None
        raise _damaged(name) from None
    except Exception:  # zipfile, zlib and tarfile have many errors for damage
        raise _damaged(name) from None


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
    """Bytes of a safetensors header; 0 where the file is none."""
    if len(start) < 10 or start[8:9] != b"{":
        return 0
    length = int(struct.unpack("<Q", start[:8])[0])
    if 2 <= length <= min(size - 8, _LARGEST_HEADER):
        return length
    if length <= _LARGEST_HEADER and b'"dtype"' in start:
        raise CheckpointError(f"{name} is incomplete, expected all of a safetensors file; copy the file again")
    return 0


def _read_safetensors(name: str, file: BinaryIO, size: int, header: int, entry: str | None) -> FileContent:
    try:
        from safetensors.torch import load
    except ImportError:
        raise CheckpointError(f"{name} needs safetensors to be read: pip install safetensors") from None
    try:
        content = file.read()
        metadata = json.loads(content[8 : 8 + header]).get("__metadata__") or {}
        return FileContent(name, load(content), size, entry, metadata={k: str(v) for k, v in metadata.items()})
    except Exception as error:  # safetensors raises its own kinds for a damaged header
        raise CheckpointError(
            f"{name} is damaged, expected a safetensors file: {str(error)[:100]}; copy the file again"
        ) from None


def _damaged(name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is damaged or incomplete, expected a checkpoint that torch.save wrote; copy the file again"
    )
