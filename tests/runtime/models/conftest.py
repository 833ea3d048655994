"""Folders of models, caches, and a small model for standby vocoders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_loading import NAMES, SIZE, Loader
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.models.cache import ModelCache


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four models; each is the shipped voice, as the only version."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        shutil.copytree(SMALL_VOICE, folder / name / "1")
    return folder


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    """A folder of one model, which the test may change."""
    shutil.copytree(SMALL_VOICE, tmp_path / "models" / "alto" / "1")
    return tmp_path / "models"


@pytest.fixture
def load() -> Loader:
    return Loader()


@pytest.fixture
def make_cache(root: Path, load: Loader) -> Iterator[Callable[..., ModelCache]]:
    """A function (capacity in models, settings) -> a cache without preheating."""
    made = []

    def make(room: float, **settings: Any) -> ModelCache:
        settings = {"models": root, "load": load, "preheat_concurrency": 0, **settings}
        made.append(ModelCache(capacity_bytes=int(room * SIZE), **settings))
        return made[-1]

    yield make
    for gate in load.gates.values():
        gate.set()
    for cache in made:
        cache.close()


@pytest.fixture(scope="module")
def directory(small_directory: Callable[[str], ModelDirectory]) -> ModelDirectory:
    """A random univoc model: 6 mel bins, a hop of 6, 16 classes, 16 kHz."""
    return small_directory("univoc")


@pytest.fixture
def copy(directory: ModelDirectory, tmp_path: Path) -> Path:
    """A copy of the small model, to damage."""
    return Path(shutil.copytree(directory.path, tmp_path / "voice"))


@pytest.fixture
def mel() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.2, 0.9, (6, 300)).astype(np.float32)
