"""Loads files in torch's two formats with ``weights_only=True``, and explains failures.

The classes that a refused pickle would import are listed without loading it.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any, BinaryIO

import torch

from wavernn_trt.export.checkpoints.archive import check_ratio
from wavernn_trt.export.checkpoints.pickled_numpy import STAND_INS, STOOD_FOR
from wavernn_trt.export.errors import CheckpointError, listed

TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file from before torch 1.6."""
_ZIP = b"PK"
_PICKLE = b"\x80"
_NAMED = re.compile(r"GLOBAL (\S+)")
"""The refused class in torch's message."""
RESAVE = "save it again with torch.save(model.state_dict(), path), where the training code is installed"

# Classes that torch.load(weights_only=True) reads.
_TENSORS = re.compile(
    r"torch\.(?:(?!ScriptObject)\w+|_utils\._rebuild\w+|_tensor\._rebuild\w+|nn\.parameter\.Parameter|serialization\._get_layout"
    r"|storage\.\w+)|collections\.(?:OrderedDict|Counter)|_codecs\.encode|builtins\.(?:bytearray|set|complex)"
)
_COMMANDS = re.compile(
    r"(?:os|posix|nt|sys|subprocess|pty|runpy|importlib|shutil|socket|webbrowser|ctypes|code|commands|platform)\..*"
    r"|builtins\.(?:eval|exec|compile|__import__|open|input|breakpoint)"
)
_MOST_PICKLES = 4
"""Files from before torch 1.6 have three short pickles before the object's."""
_SHOWN = 6
_stand_ins_lock = threading.Lock()


def load_torch_file(name: str, file: BinaryIO) -> Any:
    """Loads a file that ``torch.save`` wrote; numpy's values in it become those of `pickled_numpy`.

    Args:
        name: the file's name, for messages.
        file: in one of torch's formats; a zip archive was checked with `check_zip`.

    Raises:
        CheckpointError: damaged, or holds objects besides tensors and plain values.
    """
    try:
        try:
            return _torch_load(file, nullcontext())
        except pickle.UnpicklingError as error:
            # Torch's list of allowed classes is global to the process, so it is changed only for files that need it.
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
    """Returns the error for a refused pickle: an unknown class, an unsupported pickle protocol, or damage."""
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
        return CheckpointError(f"{name}: {_refuse_classes(classes)}")
    if protocol in (3, 4, 5) and "operand" in reason:
        return CheckpointError(
            f"{name}: found pickle protocol {protocol}, expected 2, which torch.save writes by default and which can "
            f"be read without running code; {RESAVE}, without pickle_protocol"
        )
    return damaged(name)


def _protocol(pickled: bytes) -> int:
    return pickled[1] if pickled[:1] == _PICKLE and len(pickled) > 1 else 0


def refuse_plain_pickle(name: str, file: BinaryIO) -> None:
    """Raises the error for a pickle without torch's magic number."""
    try:
        for _ in pickletools.genops(file):
            pass
    except Exception:  # no whole pickle either
        raise damaged(name) from None
    file.seek(0)
    classes = named_classes(file)
    reason = f"found a pickle that torch.save did not write, expected one that it did; {RESAVE}"
    raise CheckpointError(f"{name}: {_refuse_classes(classes) if classes else reason}")


def check_zip(name: str, file: BinaryIO) -> tuple[str, int]:
    """Returns whether a zip archive is ``torch``'s, ``numpy``'s or ``other``, and its unpacked size in bytes.

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
            # Torch does not check the checksums, and would load flipped bits.
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
    """Returns the error for a damaged or incomplete file."""
    return CheckpointError(
        f"{name} is damaged or incomplete, expected a checkpoint that torch.save wrote; copy the file again"
    )


def named_classes(file: IO[bytes]) -> tuple[str, ...]:
    """Returns the classes and functions that a pickle imports, except tensors, up to a damaged position.

    Args:
        file: at the start of a pickle; up to four consecutive pickles are searched.
    """
    found: dict[str, None] = {}
    memo: dict[int, str] = {}
    for _ in range(_MOST_PICKLES):
        texts = ["", ""]
        memo.clear()
        try:
            for operation, argument, _position in pickletools.genops(file):
                if operation.name == "GLOBAL" and isinstance(argument, str):
                    found[argument.replace(" ", ".")] = None
                elif operation.name == "STACK_GLOBAL":
                    found[".".join(texts)] = None
                elif operation.name in ("BINGET", "LONG_BINGET") and argument in memo:
                    texts = [texts[1], memo[argument]]
                elif operation.name == "MEMOIZE":
                    memo[len(memo)] = texts[1]
                elif isinstance(argument, str):
                    texts = [texts[1], argument]
        except Exception:  # a damaged pickle ends in almost any error
            break
    renamed = (re.sub(r"^__builtin__\.", "builtins.", name) for name in found)
    return tuple(name for name in renamed if not _TENSORS.fullmatch(name) and name not in STOOD_FOR)


def _refuse_classes(classes: Sequence[str]) -> str:
    """Returns the error text for a file with these classes."""
    shown = f" ({listed([_printable(name) for name in classes], _SHOWN)})" if classes else ""
    nothing = "Nothing of it was run. Expected weights only; "
    commands = [_printable(name) for name in classes if _COMMANDS.fullmatch(name)]
    if commands:
        return (
            f"found a pickle that would run {', '.join(commands[:_SHOWN])} when it is loaded, which no training "
            f"stores. {nothing}do not load this file anywhere, get the checkpoint from a source that you trust"
        )
    if "torch.ScriptObject" in classes:
        return (
            f"found packed objects of TorchScript{shown}, as quantised models hold in place of weights. "
            f"{nothing}give the checkpoint from before the quantisation (wavernn-trt quantize rounds weights itself)"
        )
    if any(name.startswith("torch.nn.modules.") for name in classes):
        return (
            f"found a whole pickled model{shown}, which needs its training code and would run it when it is loaded. "
            f"{nothing}{RESAVE}, for a file that you trust: "
            "python -c \"import torch; m = torch.load('FILE', map_location='cpu', weights_only=False); "
            "torch.save(m.state_dict(), 'weights.pt')\""
        )
    return (
        f"found pickled Python objects besides tensors{shown}, which would run code when they are loaded. "
        f"{nothing}{RESAVE}, or, for a file that you trust, take its weights out there (model: the entry that holds "
        "them): python -c \"import torch; c = torch.load('FILE', map_location='cpu', weights_only=False); "
        "torch.save({'model': c['model']}, 'weights.pt')\""
    )


def _printable(name: str) -> str:
    return re.sub(r"[^\w.<>]", "?", name)[:60]
