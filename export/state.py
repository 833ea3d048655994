"""Reading weights from a file without running anything that the file may hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavernn_trt.export.errors import CheckpointError

RESAVE = "save it again with torch.save(model.state_dict(), path), where the training code is installed"
_PICKLE = b"\x80"
_ZIP = b"PK"


@dataclass(frozen=True)
class StoredState:
    """What a checkpoint file holds."""

    state: dict[str, Tensor]
    """Float32 weights under the names that they are stored under; counters left out."""
    entry: str | None
    beside: Mapping[str, Any]
    keys: tuple[str, ...]
    notes: tuple[str, ...]


def load_state(path: Path, entry: str | None = None) -> StoredState:
    """Loads a checkpoint file, on the CPU and with ``weights_only=True``.

    Raises:
        CheckpointError: no such file, not a checkpoint, damaged, or more than weights in it.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: found a {type(loaded).__name__}, expected a dictionary of tensors; {RESAVE}")
    entries, name = loaded, None
    for wrapper in ("model", "state_dict", "model_state_dict", "model_state"):
        if isinstance(loaded.get(wrapper), Mapping):
            entries, name = loaded[wrapper], wrapper
            break
    state = _weights(path, entries)
    beside = {k: v for k, v in loaded.items() if k != name and not isinstance(v, Tensor)}
    return StoredState(state, name, beside, tuple(loaded), ())


def _weights(path: Path, entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    if not entries:
        raise CheckpointError(f"{path}: found an empty dictionary, expected weights; the training saved no model")
    limit = path.stat().st_size
    state: dict[str, Tensor] = {}
    for name, value in entries.items():
        # fatchord counts its training steps, batch normalisation its batches: neither is a weight.
        if name in ("step", "module.step") or (isinstance(name, str) and name.endswith(".num_batches_tracked")):
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: entry {str(name)[:80]!r} is a {type(value).__name__}, expected a tensor; {RESAVE}"
            )
        state[name] = _weight(path, name, value, limit)
    if state and all(name.startswith("module.") for name in state):  # torch.nn.DataParallel's prefix
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _weight(path: Path, name: str, value: Tensor, limit: int) -> Tensor:
    if not value.is_floating_point() or value.layout != torch.strided or value.is_quantized:
        raise CheckpointError(
            f"{path}: {name} is {value.dtype}, {value.layout}; expected dense floating-point weights; {RESAVE}"
        )
    if not 0 < value.numel() <= limit:  # a view with zero strides could claim any size
        raise CheckpointError(
            f"{path}: {name} has {value.numel()} elements in a file of {limit} bytes; the file is damaged"
        )
    weight = value.detach().to(torch.float32).contiguous().clone()
    if not torch.isfinite(weight).all():
        raise CheckpointError(
            f"{path}: {name} holds NaN or infinite weights, expected finite ones; the training diverged, "
            "use an earlier checkpoint"
        )
    return weight


def _load(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; expected a checkpoint that torch.save wrote")
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected a checkpoint file") from None
    if not start:
        raise CheckpointError(f"{path} is empty, expected a checkpoint that torch.save wrote; copy the file again")
    if start == _ZIP:
        _check_archive(path)
    elif start[:1] != _PICKLE:
        raise CheckpointError(
            f"{path}: found neither a zip archive nor a pickle, expected a checkpoint that torch.save wrote; "
            "give the .pt, .pth or .pyt file itself"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file torch says that its pickle protocol is a strange one
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch says "Unsupported global"/"GLOBAL ..." for anything that would have to be imported and called.
        if "global" in str(error).lower():
            raise CheckpointError(
                f"{path}: found pickled Python objects besides tensors, which would run code when they are loaded. "
                f"Nothing of it was run. Expected weights only; {RESAVE}"
            ) from None
        raise _damaged(path) from None
    except MemoryError:
        raise CheckpointError(
            f"{path} does not fit into memory, expected a checkpoint that does; free some, or copy the file again in "
            "case it is damaged"
        ) from None
    # A damaged pickle can make torch raise almost anything; every one of them means the same to the user.
    except Exception:
        raise _damaged(path) from None


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
                raise CheckpointError(
                    f"{path}: found a TorchScript archive, which is a program, expected weights only; "
                    "save model.state_dict() of the model that was scripted"
                )
            # Torch does not compare the checksums, and so would take flipped bits for weights.
            wrong = archive.testzip()
    except CheckpointError:
        raise
    except Exception:
        raise _damaged(path) from None
    if wrong is not None:
        raise CheckpointError(
            f"{path} is damaged: {wrong} does not have the checksum that it was stored with; copy the file again "
            "(if it was saved under torch.serialization.set_crc32_options(False), save it again without)"
        )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or incomplete, expected a checkpoint that torch.save wrote; copy the file again"
    )
