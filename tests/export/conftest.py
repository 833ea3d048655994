"""Helpers of this folder's tests, loaded by path: pytest's importlib mode puts no test folder on the import path."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/export/reference.py."""
    pytest.importorskip("torch", reason="the families are PyTorch modules")
    return _load(HERE / "reference.py")


@pytest.fixture(scope="session")
def upstream() -> ModuleType:
    """tests/upstream.py."""
    pytest.importorskip("torch", reason="the families are PyTorch modules")
    return _load(HERE.parent / "upstream.py")


@pytest.fixture
def fatchord(reference: ModuleType, tmp_path: Path) -> Path:
    """A small fatchord checkpoint with its step counter, and no configuration beside it."""
    import torch

    path = tmp_path / "latest_weights.pyt"
    torch.save({"step": torch.tensor([1234]), **reference.random_state()}, path)
    return path


@pytest.fixture
def coqui(reference: ModuleType, tmp_path: Path) -> Path:
    """A small Coqui checkpoint as its trainer writes it."""
    import torch

    path = tmp_path / "best_model.pth"
    torch.save({"model": reference.random_state(), "optimizer": {"state": {}}, "scaler": None, "step": 5}, path)
    return path


@pytest.fixture
def univoc(reference: ModuleType, tmp_path: Path) -> Path:
    """A small univoc checkpoint as its training writes it."""
    import torch

    path = tmp_path / "model-25000.pt"
    torch.save({"model": reference.random_univoc_state(), "optimizer": {"state": {}}, "scaler": {}, "step": 5}, path)
    return path


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"helpers_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
