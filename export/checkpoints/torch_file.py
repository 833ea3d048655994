"""Loads files in torch's two formats with ``weights_only=True``, and explains why one cannot be loaded."""

from __future__ import annotations

import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO

import torch

from wavernn_trt.export.checkpoints.archive import check_ratio
from wavernn_trt.export.checkpoints.pickled_classes import RESAVE, named_classes, refuse_classes
from wavernn_trt.export.checkpoints.pickled_numpy import STAND_INS, STOOD_FOR
from wavernn_trt.export.errors import CheckpointError

TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that begins a file from before torch 1.6."""
_ZIP = b"PK"
_PICKLE = b"\x80"
_NAMED = re.compile(r"GLOBAL (\S+)")
"""In torch's message, the class that it refuses."""
_stand_ins_lock = threading.Lock()


def load_torch_file(name: str, file: BinaryIO) -> Any:
    """Loads a file that ``torch.save`` wrote; numpy's values in it become those of `pickled_numpy`.

    Args:
        name: of the file, for messages.
        file: in one of torch's formats; a zip archive was checked with `check_zip`.

    Raises:
        CheckpointError: damaged, or holds objects besides tensors and plain values.
    """
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
        raise
    # Torch raises almost any kind of error for a damaged pickle.
    except Exception:
        raise damaged(name) from None


def _torch_load(file: BinaryIO, allowed: AbstractContextManager[Any]) -> Any:
    file.seek(0)
    with warnings.catch_warnings(), allowed:
        warnings.simplefilter("ignore")  # torch warns of an unusual pickle protocol in damaged files
        return torch.load(file, map_location="cpu", weights_only=True)


def _refuse_pickle(name: str, file: BinaryIO, reason: str) -> CheckpointError:
    """Classifies torch's reason for a refusal: an unknown class, a pickle protocol that it does not read, or damage."""
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
        return damaged(name)
    if "global" in reason.lower():
        return CheckpointError(f"{name}: {refuse_classes(classes)}")
    if protocol in (3, 4, 5) and "operand" in reason:
        return CheckpointError(
            f"{name}: found pickle protocol {protocol}, expected 2, which torch.save writes by default and which can "
            f"be read without running code; {RESAVE}, without pickle_protocol"
        )
    return damaged(name)


def _protocol(pickled: bytes) -> int:
    return pickled[1] if pickled[:1] == _PICKLE and len(pickled) > 1 else 0


def refuse_plain_pickle(name: str, file: BinaryIO) -> None:
    """Raises the reason why a pickle without torch's magic number is not loaded."""
    try:
        for _ in pickletools.genops(file):
            pass
    except Exception:  # no whole pickle either
        raise damaged(name) from None
    file.seek(0)
    classes = named_classes(file)
    reason = f"found a pickle that torch.save did not write, expected one that it did; {RESAVE}"
    raise CheckpointError(f"{name}: {refuse_classes(classes) if classes else reason}")


def check_zip(name: str, file: BinaryIO) -> tuple[str, int]:
    """Whether a zip archive is ``torch``'s, ``numpy``'s or some ``other``, and its size unpacked in bytes.

    Raises:
        CheckpointError: damaged, absurdly compressed, or a program that torch saved.
    """
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
        raise damaged(name) from None
    if wrong is not None:
        raise CheckpointError(
            f"{name} is damaged: {wrong} does not have the checksum that it was stored with; copy the file again "
            "(if it was saved under torch.serialization.set_crc32_options(False), save it again without)"
        )
    return "torch", size


def damaged(name: str) -> CheckpointError:
    """The error for a damaged or incomplete file."""
    return CheckpointError(
        f"{name} is damaged or incomplete, expected a checkpoint that torch.save wrote; copy the file again"
    )
