"""Weights of small networks, and a function that saves and loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wavernn_trt.export.checkpoints.state import StoredState


@pytest.fixture
def state(reference: ModuleType) -> dict[str, Any]:
    """A small network in fatchord's layout."""
    found: dict[str, Any] = reference.random_state()
    return found


@pytest.fixture
def other(reference: ModuleType) -> dict[str, Any]:
    """Other weights of the same sizes."""
    found: dict[str, Any] = reference.random_state(seed=1)
    return found


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., StoredState]:
    """Saves an object and loads it."""

    def save_and_load(value: Any, entry: str | None = None, name: str = "model.pt") -> StoredState:
        import torch

        from wavernn_trt.export.checkpoints.state import load_state

        torch.save(value, tmp_path / name)
        return load_state(tmp_path / name, entry)

    return save_and_load
