"""Reads the weights of a network and the plain values beside them from a checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavernn_trt.export.checkpoints.checkpoint_file import FileContent, read_checkpoint_file
from wavernn_trt.export.checkpoints.pickled_numpy import StoredArray, StoredDtype
from wavernn_trt.export.checkpoints.state_choice import choose
from wavernn_trt.export.checkpoints.state_entries import (
    TOP,
    Candidate,
    Found,
    find_candidates,
    is_counter,
    is_optimizer,
)
from wavernn_trt.export.checkpoints.torch_file import RESAVE
from wavernn_trt.export.errors import CheckpointError, printable

_NORMALISED = re.compile(r"(?P<base>.*)_g|(?P<module>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.original0")
_DEEPEST = 20
_MOST = 100_000
_LONGEST = 4096
"""Longer lists are logs of a training."""
_LARGEST_ARRAY = 256
_NOTHING = object()
_REPARAMETRISED = re.compile(r"(?:.*\.)?parametrizations\..*|.*_orig")


@dataclass(frozen=True)
class StoredState:
    """The weights in a checkpoint file and its other values."""

    state: dict[str, Tensor]
    """Float32 weights by name, prefixes removed; counters left out."""
    entry: str | None
    """Their entry: ``model_state``, ``ema.shadow``; ``None`` for a bare state dict."""
    beside: Mapping[str, Any]
    """All other plain values of the file, nested: text, numbers, booleans, ``None``, lists and dictionaries of them.

    ``files`` has the text of settings files by name, where the checkpoint is in an archive with some.
    """
    keys: tuple[str, ...]
    """Names of the top-level entries of the file."""
    notes: tuple[str, ...]
    """Lines for the user: preferred, completed, folded or omitted weights."""


def load_state(path: Path, entry: str | None = None) -> StoredState:
    """Loads a checkpoint file, on the CPU and with ``weights_only=True``.

    Averaged weights are preferred to others. Prefixes of names (``module.``, ``_orig_mod.``, ...) are removed, and
    weight normalisation is folded into the weights.

    Args:
        path: a file that ``torch.save`` wrote, safetensors, ``.npz``, or an archive with one of these inside.
        entry: the entry to read, with dots for nested ones; in an archive with several checkpoints, the name of one
            or ``NAME:ENTRY``; ``None`` where the file holds one network.

    Raises:
        CheckpointError: no such file, not a checkpoint, damaged, more than weights in it, no network in it, or several.
    """
    content = read_checkpoint_file(path, entry)
    try:
        return _stored_state(content)
    except CheckpointError as error:
        raise CheckpointError(f"{content.name}: {error}") from None


def _stored_state(content: FileContent) -> StoredState:
    value = content.value
    found = find_candidates(value)
    if found.quantised:
        raise CheckpointError(
            f"{printable(found.quantised[0])} holds quantised weights, expected floating-point ones; give the "
            "checkpoint from before the quantisation (wavernn-trt quantize rounds weights itself)"
        )
    if not found.candidates:
        _refuse_without_network(content, found)
    choice = choose(found, content.entry)
    notes = [*content.notes, *choice.notes]
    state, folded = _fold_weight_norm(_weights(choice.candidate, content.size))
    if folded:
        notes.append(f"weight normalisation folded into {folded} weights")
    beside, complete = _plain_values(value, found.networks)
    if not complete:
        notes.append("too many values beside the weights: some settings in the file were not read")
    if content.metadata:
        beside = {**beside, **content.metadata}
    if content.texts:
        beside = {**beside, "files": dict(content.texts)}
    return StoredState(
        state=state,
        entry=None if choice.candidate.entry == TOP else choice.candidate.entry,
        beside=beside,
        keys=tuple(str(key) for key in value) if isinstance(value, Mapping) else (),
        notes=tuple(notes),
    )


def _refuse_without_network(content: FileContent, found: Found) -> None:
    value = content.value
    if TOP in found.optimizers:
        name = content.name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(": ", 1)[-1]
        wanted = name.replace("optim", "weights") if "optim" in name and "optimizer" not in name else ""
        wanted = wanted or "latest_weights.pyt"
        raise CheckpointError(
            "found an optimizer's state, expected the weights of a model; give the file that the training wrote beside "
            f"it, such as {wanted}"
        )
    if not isinstance(value, Mapping):
        shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
        raise CheckpointError(f"found a {type(value).__name__}{shape}, expected a dictionary of tensors; {RESAVE}")
    if found.unnamed:
        raise CheckpointError(
            f"found tensors without names in {printable(found.unnamed[0])!r}, expected weights by name; {RESAVE}"
        )
    if not value or any(isinstance(item, Mapping) and not item for item in value.values()):
        raise CheckpointError("found an empty dictionary, expected weights; the training saved no model")
    entries = ", ".join(printable(key, 40) for key in list(value)[:12])
    optimizer = f" ({printable(', '.join(found.optimizers[:3]))}: an optimizer's state)" if found.optimizers else ""
    raise CheckpointError(f"found no tensors in its entries {entries}{optimizer}, expected weights; {RESAVE}")


def _weights(candidate: Candidate, limit: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in candidate.values.items():
        if is_counter(name):
            continue
        if not isinstance(name, str):
            raise CheckpointError(
                f"entry {printable(name)!r} is a {type(value).__name__} without a name, expected weights by name; "
                f"{RESAVE}"
            )
        try:
            state[name] = _weight(printable(name), value, limit)
        except (RuntimeError, NotImplementedError, TypeError) as error:  # of tensors that have no plain values
            raise CheckpointError(
                f"{printable(name)} is a {type(value).__name__} that cannot be read ({str(error)[:80]}), expected "
                f"dense floating-point weights; {RESAVE}"
            ) from None
    return state


def _weight(name: str, value: Tensor, limit: int) -> Tensor:
    if value.is_quantized:
        raise CheckpointError(
            f"{name} is {value.dtype}, quantised; expected dense floating-point weights; give the checkpoint from "
            "before the quantisation (wavernn-trt quantize rounds weights itself)"
        )
    if value.is_meta:
        raise CheckpointError(f"{name} has a shape and no values (device meta), expected weights; {RESAVE}")
    if value.is_nested:
        raise CheckpointError(f"{name} is a nested tensor, expected dense floating-point weights; {RESAVE}")
    if not value.is_floating_point() or value.layout != torch.strided:
        raise CheckpointError(
            f"{name} is {value.dtype}, {value.layout}; expected dense floating-point weights; {RESAVE}"
        )
    if not 0 < value.numel() <= limit:  # a view with zero strides could claim any size
        raise CheckpointError(f"{name} has {value.numel()} elements in a file of {limit} bytes; the file is damaged")
    weight = value.detach().to(torch.float32).contiguous().clone()
    if not torch.isfinite(weight).all():
        raise CheckpointError(
            f"{name} holds NaN or infinite weights, expected finite ones; the training diverged, use an earlier "
            "checkpoint"
        )
    return weight


def _fold_weight_norm(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Replaces ``g`` and ``v`` by ``g * v / |v|``, the norm over all but the first axis; returns their number too."""
    folded: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name, g in state.items():
        match = _NORMALISED.fullmatch(name)
        if not match:
            continue
        whole = match["base"] or f"{match['module']}{match['name']}"
        other = f"{whole}_v" if match["base"] else f"{name.removesuffix('0')}1"
        v = state.get(other)
        if v is None or whole in state:
            continue
        if g.shape != (*v.shape[:1], *(1,) * (v.dim() - 1)):
            raise CheckpointError(
                f"{printable(whole)} is weight-normalised over other axes than all but the first ({list(g.shape)} for "
                f"{list(v.shape)}), expected plain weights; save after torch.nn.utils.remove_weight_norm"
            )
        norm = v.double().flatten(1).norm(dim=1).reshape(g.shape)
        folded[name] = (g.double() * v.double() / norm).float()
        if not torch.isfinite(folded[name]).all():
            raise CheckpointError(
                f"{printable(whole)} is weight-normalised with a direction of zeros; the file is damaged"
            )
        parts |= {other}
    result = {}
    for name, value in state.items():
        match = _NORMALISED.fullmatch(name) if name in folded else None
        if match:
            result[match["base"] or f"{match['module']}{match['name']}"] = folded[name]
        elif name not in parts:
            result[name] = value
    for name in result:
        if _REPARAMETRISED.fullmatch(name):
            raise CheckpointError(
                f"{printable(name)} is one part of a weight that is computed from several (spectral "
                "normalisation or pruning), expected plain weights; save after torch.nn.utils.parametrize."
                "remove_parametrizations, remove_spectral_norm or prune.remove"
            )
    return result, len(folded)


def _plain_values(value: object, networks: frozenset[int] = frozenset()) -> tuple[dict[str, Any], bool]:
    """Returns text, numbers, booleans and ``None`` in mappings and lists; all other values are left out.

    Args:
        value: the object in a checkpoint.
        networks: ids of mappings whose arrays are weights.

    Returns:
        The values, with names as text and numpy's numbers as Python's; and whether all could be read.
    """
    reader = _Reader(networks)
    found = reader.read(value, 0) if isinstance(value, Mapping) else {}
    return found if isinstance(found, dict) else {}, reader.left > 0


class _Reader:
    def __init__(self, networks: frozenset[int]) -> None:
        self.left = _MOST
        self._networks = networks
        self._open: set[int] = set()

    def read(self, value: object, depth: int, arrays: bool = True) -> Any:
        self.left -= 1
        if self.left <= 0 or depth > _DEEPEST:
            return _NOTHING
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, StoredDtype):
            dtype = value.dtype()
            return _NOTHING if dtype is None else dtype.name
        if isinstance(value, StoredArray):
            value = value.array()
        if isinstance(value, np.ndarray):
            plain = value.dtype.kind in "biufSU" and value.size <= _LARGEST_ARRAY and arrays
            return value.tolist() if plain else _NOTHING
        if isinstance(value, Tensor) or id(value) in self._open or is_optimizer(value):
            return _NOTHING
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, depth)
            if isinstance(value, list | tuple | set | frozenset) and len(value) <= _LONGEST:
                if isinstance(value, set | frozenset):
                    value = sorted(value, key=str)
                items = [self.read(item, depth + 1, id(value) not in self._networks) for item in value]
                kept = [item for item in items if item is not _NOTHING]
                return kept if kept or not items else _NOTHING
        finally:
            self._open.discard(id(value))
        return _NOTHING

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        """Returns a dictionary; `_NOTHING` where all of its values are left out."""
        arrays = id(value) not in self._networks
        items = {str(name): self.read(item, depth + 1, arrays) for name, item in value.items()}
        kept = {name: item for name, item in items.items() if item is not _NOTHING}
        return kept if kept or not items or depth == 0 else _NOTHING
