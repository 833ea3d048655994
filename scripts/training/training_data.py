"""Prepares the recordings of a training: each process's part of every folder, and altered copies of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wavernn_trt.scripts.training.corpus import AUDIO, Clips, Recording, prepare
from wavernn_trt.scripts.training.recipe import Recipe, RecipeError


def altered(name: str, signal: NDArray[np.floating], rate: int, bits: int, rng: torch.Generator) -> Recording:
    """Returns a copy with speed and pitch changed by up to 8 % and the level lowered by up to 5 dB."""
    speed, decibels = (torch.rand(2, generator=rng) * torch.tensor([0.16, -5]) + torch.tensor([0.92, 0])).tolist()
    return prepare(name, signal, rate * speed, 10 ** (decibels / 20), bits)


def altered_copies(
    clips: Clips, names: Sequence[str], minutes: float, bits: int, rng: torch.Generator
) -> list[Recording]:
    """Returns copies of recordings in a random order, round after round, until they have that length in all."""
    copies: list[Recording] = []
    seconds = 0.0
    while True:
        for i in torch.randperm(len(names), generator=rng).tolist():
            if seconds >= 60 * minutes:
                return copies
            copies.append(altered(names[i], *clips[names[i]], bits, rng))
            seconds += len(copies[-1].mel) * AUDIO.hop_length / AUDIO.sample_rate


def training_data(
    folders: Sequence[Clips],
    names: Sequence[Sequence[str]],
    shares: Sequence[float],
    recipe: Recipe,
    rng: torch.Generator,
    part: float,
) -> tuple[list[Recording], list[tuple[int, float]]]:
    """Prepares the named recordings and altered copies of them.

    Args:
        folders: from `read_folder`.
        names: of each folder's recordings to use.
        shares: of the folders in the training data.
        recipe: with the length and share of the copies.
        rng: CPU generator that draws the alterations.
        part: of the recipe's length of copies to make.

    Returns:
        The recordings, and the groups of them for `sampling_weights`.
    """
    recordings: list[Recording] = []
    groups = []
    for clips, chosen, share in zip(folders, names, shares, strict=True):
        if not chosen:
            raise RecipeError(f"{len(clips)} clips in a folder: too few for so many processes")
        originals = [prepare(name, *clips[name], 1.0, recipe.bits) for name in chosen]
        minutes = part * recipe.variant_minutes if recipe.variant_share else 0.0
        copies = altered_copies(clips, chosen, minutes, recipe.bits, rng)
        copied = recipe.variant_share if copies else 0.0
        for group, weight in ((originals, 1 - copied), (copies, copied)):
            if group:
                recordings += group
                groups.append((len(group), share * weight))
    return recordings, groups


def check_lengths(recordings: Sequence[Recording], frames: int, context: int) -> None:
    """Raises a RecipeError if a window does not fit into every recording."""
    shortest = min(recordings, key=lambda recording: len(recording.mel))
    if frames + 2 * context > len(shortest.mel):
        raise RecipeError(
            f"{frames} frames with {context} on each side do not fit: {shortest.name} or its fastest copy has "
            f"{len(shortest.mel)}; lower --frames or --context, or leave that clip out"
        )
