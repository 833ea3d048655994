"""Helpers of this folder's tests, loaded by path: pytest's importlib mode puts no test folder on the import path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def simulated() -> ModuleType:
    """tests/runtime/simulated_device.py."""
    pytest.importorskip("onnxruntime", reason="the simulated device runs graphs with ONNX Runtime")
    return _load("simulated_device", HERE / "simulated_device.py")


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that has one GPU, or as many as FAKE_GPUS says, and fails as FAKE_ERROR says."""
    return _load("fake_driver", HERE.parent / "fake_driver.py").build(tmp_path_factory.mktemp("driver"))


small_directory = _load("engine_fixtures", HERE.parent / "engines" / "conftest.py").small_directory
