"""Finds the networks in a loaded object: mappings of names to tensors, at any depth, under any prefix.

A WaveRNN is recognised by its first recurrent layer: the text before ``rnn1.weight_hh_l0`` in a name is a prefix of
some wrapper, and every prefix in a mapping is a separate network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavernn_trt.export.checkpoints.pickled_numpy import StoredArray
from wavernn_trt.export.errors import printable

TOP = "."
"""The name of the top-level entry of a file."""
COUNTERS = frozenset(("step", "num_batches_tracked", "n_averaged", "num_updates", "global_step", "decay"))
"""Last parts of the names of counters and options, which are not weights."""

_ANCHOR = re.compile(r"((?:.*\.)?)rnn1\.(?:weight_hh_l0(?:_g)?|parametrizations\.weight_hh_l0\.original0)")
_INPUTS = ("I.", "embedding.", "fc.")
"""The layers before the first recurrent one: fatchord's, univoc's, torchaudio's."""
_PREFIXES = (
    *("module", "_orig_mod", "model", "net", "network", "generator", "vocoder", "wavernn", "_model", "ema_model"),
    *("model_ema", "_forward_module", "averaged_model"),
)
_AVERAGED = re.compile(r"(?:.*[_.-])?(?:ema|averaged?|avg|swa|shadow|polyak)(?:[_.\d-].*)?", re.IGNORECASE)
_DISCRIMINATOR = re.compile(r"(?:.*_)?(?:disc|discriminators?|critic|mpd|msd|mrd|net_?d)(?:_.*)?", re.IGNORECASE)
_OPTIMIZER_MEMBERS = {"exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "max_exp_avg_sq"}
_BACKUP = "collected_params"
"""A copy of the weights that some moving averages keep while they are evaluated."""
_OWN_TRAINING = {"weights", "kept_out", "optimizer"}
"""Entries beside ``model`` in this project's training.pt, where ``model`` holds the averaged weights."""
_DEEPEST = 20
_MOST_NODES = 20_000
_LONGEST_LIST = 1000


@dataclass(frozen=True, eq=False)
class Candidate:
    """Tensors in a file that could be a network."""

    path: tuple[str, ...]
    """Entries that lead to it."""
    prefix: str
    """The removed prefix of its tensors' names."""
    values: dict[Any, Tensor]
    """Tensors by name, in the file's order; by position where ``named`` is false."""
    rank: int
    """2 a WaveRNN, 1 part of one, 0 other tensors, -1 a discriminator."""
    averaged: bool
    """Whether it is a moving average of a training's weights."""
    named: bool = True
    """Whether ``values`` has the names of its tensors."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Other tensors in the same mapping: their number by the first part of their names."""

    @property
    def entry(self) -> str:
        """The path with dots."""
        return ".".join(self.path) or TOP

    @property
    def shown(self) -> str:
        """The entry for messages."""
        return printable(self.entry)


@dataclass(frozen=True)
class Found:
    """All possible networks in a file."""

    candidates: tuple[Candidate, ...]
    optimizers: tuple[str, ...]
    """Entries with an optimizer's state."""
    networks: frozenset[int]
    """The ids of the mappings that contain the candidates."""
    quantised: tuple[str, ...]
    """Names of packed, quantised weights."""
    unnamed: tuple[str, ...]
    """Entries that are lists of tensors."""


def is_optimizer(value: object) -> bool:
    """Whether a mapping is an optimizer's state, or a part of one, by its content."""
    if not isinstance(value, Mapping):
        return False
    return "param_groups" in value or any(name in value for name in _OPTIMIZER_MEMBERS)


def as_tensor(value: object) -> Tensor | None:
    """Returns a tensor or numeric array as a tensor; else ``None``."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, StoredArray):
        value = value.array()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.dtype.itemsize <= 8:
        kind = value.dtype.newbyteorder("=")
        if kind.kind == "u" and kind.itemsize > 1:
            kind = np.dtype(np.int64)
        return torch.from_numpy(np.array(value, dtype=kind, order="C"))
    return None


def find_candidates(value: object) -> Found:
    """Searches mappings and lists for networks, each of them once."""
    search = _Search(value)
    search.walk(value, (), 0)
    return Found(
        tuple(search.candidates),
        tuple(search.optimizers),
        frozenset(search.networks),
        tuple(search.quantised),
        tuple(search.unnamed),
    )


def is_counter(name: object) -> bool:
    """Whether a tensor's name is that of a counter or option, which is not a weight."""
    return isinstance(name, str) and name.rpartition(".")[2] in COUNTERS


class _Search:
    def __init__(self, top: object) -> None:
        self.candidates: list[Candidate] = []
        self.optimizers: list[str] = []
        self.networks: set[int] = set()
        self.quantised: list[str] = []
        self.unnamed: list[str] = []
        self._seen: set[int] = set()
        own = isinstance(top, Mapping) and top.keys() >= _OWN_TRAINING
        self._averaged_model = ("model",) if own else None

    def walk(self, value: object, path: tuple[str, ...], depth: int) -> None:
        """Adds the candidates at ``path`` and below."""
        if depth > _DEEPEST or id(value) in self._seen or len(self._seen) > _MOST_NODES:
            return
        if isinstance(value, Mapping):
            self._seen.add(id(value))
            if is_optimizer(value):
                self.optimizers.append(".".join(path) or TOP)
                return
            tensors = {name: tensor for name, item in value.items() if (tensor := as_tensor(item)) is not None}
            if tensors:
                before = len(self.candidates)
                self._add_mapping(tensors, path)
                if any(each.rank > 0 or not each.named for each in self.candidates[before:]):
                    self.networks.add(id(value))
            for name, item in value.items():
                if str(name).endswith("_packed_params"):
                    self.quantised.append(str(name))
                if name != _BACKUP:
                    self.walk(item, (*path, str(name)), depth + 1)
        elif isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
            self._seen.add(id(value))
            if value and all(as_tensor(item) is not None for item in value):
                self.unnamed.append(".".join(path) or TOP)
                if self._is_averaged(path):
                    self._add_unnamed(dict(enumerate(value)), path)
                    self.networks.add(id(value))
                return
            for i, item in enumerate(value):
                self.walk(item, (*path, str(i)), depth + 1)

    def _is_averaged(self, path: Sequence[str]) -> bool:
        return any(_AVERAGED.fullmatch(part) for part in path) or path == self._averaged_model

    def _add_mapping(self, tensors: Mapping[Any, Tensor], path: tuple[str, ...]) -> None:
        if any(_DISCRIMINATOR.fullmatch(part) for part in path):
            self.candidates.append(Candidate(path, "", dict(tensors), -1, False))
            return
        anchors = [match for name in tensors if isinstance(name, str) and (match := _ANCHOR.fullmatch(name))]
        groups: dict[str, dict[Any, Tensor]] = {match[1]: {} for match in anchors}
        prefixes = sorted(groups, key=len, reverse=True)
        rest: dict[Any, Tensor] = {}
        for name, tensor in tensors.items():
            for prefix in prefixes:
                if isinstance(name, str) and name.startswith(prefix) and not (prefix == "" and _is_other(name)):
                    groups[prefix][name.removeprefix(prefix)] = tensor
                    break
            else:
                rest[name] = tensor
        if not prefixes:
            self._add_unknown(tensors, path)
            return
        if "" in groups:  # names that are not text are refused later, with their network
            groups[""] |= {name: rest.pop(name) for name in list(rest) if not isinstance(name, str)}
        rest = self._take_squeezed(rest, path)
        beside: dict[str, int] = {}
        for name in rest:
            if not is_counter(name):
                first = str(name).partition(".")[0]
                beside[first] = beside.get(first, 0) + 1
        for prefix, values in groups.items():
            whole = (*path, *prefix.split(".")[:-1])
            averaged = self._is_averaged(whole) or f"{prefix}n_averaged" in tensors or "n_averaged" in tensors
            rank = 2 if any(str(name).startswith(_INPUTS) for name in values) else 1
            if any(_DISCRIMINATOR.fullmatch(part) for part in whole):
                rank = -1
            self.candidates.append(
                Candidate(whole if len(groups) > 1 else path, prefix, values, rank, averaged, True, beside)
            )

    def _add_unknown(self, tensors: Mapping[Any, Tensor], path: tuple[str, ...]) -> None:
        """Adds tensors without a WaveRNN's first recurrent layer: unnamed averages, or a network to refuse later."""
        if self._is_averaged(path) and all(str(name).isdecimal() for name in tensors):
            self._add_unnamed(tensors, path)
            return
        values, prefix = dict(tensors), ""
        while values and (found := _common_prefix(values)):
            values = {name.removeprefix(found): value for name, value in values.items()}
            prefix += found
        self.candidates.append(Candidate(path, prefix, values, 0, self._is_averaged(path)))

    def _add_unnamed(self, values: Mapping[Any, object], path: tuple[str, ...]) -> None:
        tensors = {name: tensor for name, item in values.items() if (tensor := as_tensor(item)) is not None}
        self.candidates.append(Candidate(path, "", tensors, 0, True, named=False))

    def _take_squeezed(self, rest: dict[Any, Tensor], path: tuple[str, ...]) -> dict[Any, Tensor]:
        """Adds averages that are buffers of a module, with names without dots as in ``model_ema.rnn1weight_hh_l0``."""
        left = {}
        groups: dict[str, dict[Any, Tensor]] = {}
        for name, tensor in rest.items():
            first, _, last = str(name).partition(".")
            if last and "." not in last and _AVERAGED.fullmatch(first):
                groups.setdefault(first, {})[last] = tensor
            else:
                left[name] = tensor
        for first, values in groups.items():
            self._add_unnamed(values, (*path, first))
        return left


def _is_other(name: str) -> bool:
    return _DISCRIMINATOR.fullmatch(name.partition(".")[0]) is not None


def _common_prefix(values: Mapping[Any, Tensor]) -> str:
    """Returns the known prefix that all names share; empty where there is none."""
    for prefix in _PREFIXES:
        if all(isinstance(name, str) and name.startswith(f"{prefix}.") for name in values):
            return f"{prefix}."
    return ""
