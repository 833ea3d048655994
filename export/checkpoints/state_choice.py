"""Chooses one of the networks in a file, and completes averaged weights that lack tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wavernn_trt.export.checkpoints.state_entries import TOP, Candidate, Found, is_counter
from wavernn_trt.export.errors import CheckpointError, listed, printable

_STATISTICS = (".running_mean", ".running_var")
_KERNELS = ("upsample.up_layers.", "upsample.upsample_layers.")
_SHOWN = 12


@dataclass(frozen=True)
class Choice:
    """The network that is read."""

    candidate: Candidate
    """With the names of all its tensors."""
    notes: tuple[str, ...]
    """Lines for the user: preferred, completed or omitted weights."""


def choose(found: Found, entry: str | None) -> Choice:
    """Returns the network that ``entry`` names; else the only one, or the averaged one of two.

    Raises:
        CheckpointError: no such entry, several equally good networks, or unusable averaged weights.
    """
    candidates = found.candidates if entry is None else _at(found, entry)
    best = max(each.rank for each in candidates)
    plain = _distinct([each for each in candidates if each.rank == best and each.named and not each.averaged])
    if best == 0 and plain:
        plain = [max(plain, key=lambda each: len(each.values))]
    averaged = [each for each in candidates if each.averaged and (each.rank == best or not each.named)]
    usable, refused = _usable(averaged, found)
    if refused and not usable and not plain:
        raise CheckpointError(f"{refused[0]}; expected weights by name, name another entry with --entry")
    tied = [each.candidate for each in usable] or plain
    if len(tied) > 1:
        raise CheckpointError(f"found {len(tied)} networks: {describe(tied)}; expected one: choose with --entry NAME")
    if not usable:
        notes = refused
    else:
        notes = list(usable[0].notes)
        if entry is None and (plain or tied[0].entry != TOP):
            names = " or ".join(each.shown for each in plain)
            others = f"; --entry {names} takes the others" if names else ""
            notes.insert(0, f"averaged weights taken from {tied[0].shown!r}{others}")
    left_out = dict(tied[0].beside)
    if entry is None:
        considered = [each.entry for each in (*plain, *averaged)]
        others_found = [each for each in candidates if _is_notable(each) and each.entry not in considered]
        left_out |= {each.entry: len(each.values) for each in others_found}
    if left_out:
        notes.append(
            "left out: " + ", ".join(f"{printable(name)} ({count} tensors)" for name, count in left_out.items())
        )
    return Choice(tied[0], tuple(notes))


def _usable(averaged: Sequence[Candidate], found: Found) -> tuple[list[Choice], list[str]]:
    """Returns usable averaged weights, without duplicates, and the reasons against the others."""
    models = _distinct([each for each in found.candidates if each.rank > 0 and not each.averaged])
    usable: list[Choice] = []
    refused: list[str] = []
    for each in averaged:
        result = _complete(each, models[0] if len(models) == 1 else None)
        if isinstance(result, str):
            refused.append(result)
        elif not any(_equal(result.candidate.values, other.candidate.values) for other in usable):
            usable.append(result)
    return usable, refused


def describe(candidates: Sequence[Candidate]) -> str:
    """Returns the names of entries with the number of their tensors."""
    return listed([f"{each.shown} ({len(each.values)} tensors)" for each in candidates], _SHOWN)


def _at(found: Found, entry: str) -> tuple[Candidate, ...]:
    """Returns the candidates at an entry or inside it."""
    at = []
    for each in found.candidates:
        whole = ".".join((*each.path, *each.prefix.split(".")[:-1]))
        if any(name == entry or name.startswith(f"{entry}.") for name in (each.entry, whole)):
            at.append(each)
    if not at:
        _refuse_entry(found, entry)
    return tuple(at)


def _refuse_entry(found: Found, entry: str) -> None:
    if entry in found.optimizers:
        raise CheckpointError(f"entry: {entry!r} is an optimizer's state, expected one of {describe(found.candidates)}")
    if [each.path for each in found.candidates] == [()]:
        count = len(found.candidates[0].values)
        raise CheckpointError(
            f"entry: found no {entry!r}, the file holds one network of {count} tensors and no entries; leave entry out"
        )
    raise CheckpointError(f"entry: found no {entry!r}, expected one of {describe(found.candidates)}")


def _is_notable(candidate: Candidate) -> bool:
    """Whether its omission is reported: not for counters, statistics or a random generator's state."""
    return any(value.is_floating_point() and value.dim() > 1 for value in candidate.values.values())


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidates without duplicates, by their tensors."""
    kept: list[Candidate] = []
    for each in candidates:
        if not any(_equal(each.values, other.values) for other in kept):
            kept.append(each)
    return kept


def _equal(ours: dict[Any, Tensor], theirs: dict[Any, Tensor]) -> bool:
    if ours.keys() != theirs.keys():
        return False
    try:
        return all(value is theirs[name] or torch.equal(value, theirs[name]) for name, value in ours.items())
    except RuntimeError:  # sparse, quantised or other tensors that cannot be compared
        return False


def _complete(averaged: Candidate, model: Candidate | None) -> Choice | str:
    """Returns averaged weights with all names and tensors, or the reason why they are not used."""
    if not averaged.named:
        named = _named(averaged, model) if model else None
        if named is None:
            reason = "do not match the model's" if model else "there is no model to take them from"
            return f"averaged weights in {averaged.shown!r} have no names, and {reason}: not used"
        averaged = named
    if model is None:
        return Choice(averaged, ())
    missing = [name for name in model.values if name not in averaged.values and not is_counter(name)]
    trained = [name for name in missing if not _is_untrained(name)]
    if trained:
        return (
            f"averaged weights in {averaged.shown!r} lack {printable(trained[0])} and {len(trained) - 1} more: not used"
        )
    if not missing:
        return Choice(averaged, ())
    values = {name: averaged.values.get(name, value) for name, value in model.values.items()} | averaged.values
    kinds = {"upsampling kernels" if name.startswith(_KERNELS) else "running statistics" for name in missing}
    return Choice(
        replace(averaged, values=values),
        (f"{averaged.shown!r} lacks {' and '.join(sorted(kinds))}: {len(missing)} tensors taken from {model.shown!r}",),
    )


def _is_untrained(name: object) -> bool:
    return isinstance(name, str) and (name.endswith(_STATISTICS) or name.startswith(_KERNELS))


def _named(averaged: Candidate, model: Candidate) -> Candidate | None:
    """Returns unnamed averages with the model's names: by names without dots, or in the order of its parameters."""
    squeezed: dict[str, list[Any]] = {}
    for name in model.values:
        squeezed.setdefault(str(name).replace(".", ""), []).append(name)
    values = {name: value for name, value in averaged.values.items() if not is_counter(name)}
    names: list[Any] | None = None
    if all(len(squeezed.get(str(name), ())) == 1 for name in values):
        names = [squeezed[str(name)][0] for name in values]
    else:
        values = averaged.values
        every = [name for name in model.values if not is_counter(name)]
        parameters = [name for name in every if not str(name).endswith(_STATISTICS)]
        trained = [name for name in parameters if not _is_untrained(name)]
        for order in (every, parameters, trained):
            if len(order) == len(values):
                names = order
                break
    if names is None:
        return None
    pairs = list(zip(names, values.values(), strict=True))
    if any(model.values[name].shape != value.shape for name, value in pairs):
        return None
    return replace(averaged, values=dict(pairs), named=True, rank=model.rank)
