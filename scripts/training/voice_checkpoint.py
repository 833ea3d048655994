"""Checkpoints of a training: written whole or not at all, read without running anything that is in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint
from wavernn_trt.scripts.training.voice_recipe import RecipeError


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint so that an interruption leaves the old one whole."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, tensors and plain values only.

    Raises:
        RecipeError: none, or not one of univoc's kind.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in as many ways as there are files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{path}: not a checkpoint that can be read ({reason})") from None
    if not isinstance(content, dict) or not {"model", "step"} <= set(content):
        raise RecipeError(f"{path}: expected a dict with 'model' and 'step', as univoc and this script write it")
    return content


def load_training(path: Path) -> dict[str, Any]:
    """Reads a ``training.pt``.

    Raises:
        RecipeError: none, or another kind of checkpoint.
    """
    content = load(path)
    missing = {"weights", "optimizer", "scaler", "kept_out", "best", "seconds"} - set(content)
    if missing:
        raise RecipeError(f"{path}: found no {', '.join(sorted(missing))}; it cannot be resumed, but --init takes it")
    return content


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of a model directory that was exported from one.

    Raises:
        RecipeError: neither.
    """
    if not path.is_dir():
        weights: dict[str, Tensor] = load(path)["model"]
        return weights
    try:
        return read_checkpoint(path).state
    except CheckpointError as error:
        raise RecipeError(str(error)) from None
