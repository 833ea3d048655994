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


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"helpers_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
