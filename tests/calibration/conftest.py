"""Small random models of two layouts, and recordings for them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


_engines = _load("calibration_models", Path(__file__).resolve().parents[1] / "engines" / "conftest.py")
small_directory = _engines.small_directory


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., Path]:
    """A function (name, samples, seed, rate) -> a recording of noise that fades in and out."""
    import soundfile

    def make(name: str, samples: int = 900, seed: int = 0, rate: int = 16000) -> Path:
        noise = np.random.default_rng(seed).normal(0, 0.2, samples) * np.hanning(samples)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise, rate)
        return path

    return make


@pytest.fixture
def mel_file(tmp_path: Path) -> Callable[..., Path]:
    """A function (name, frames, seed) -> a random mel of a small model."""

    def make(name: str, frames: int = 30, seed: int = 0) -> Path:
        values: NDArray[Any] = np.random.default_rng(seed).uniform(0, 1, (6, frames)).astype(np.float32)
        np.save(tmp_path / name, values)
        return tmp_path / name

    return make
