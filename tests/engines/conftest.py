"""Small random models of every layout as model directories; tests/runtime and tests/calibration take them from here."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import filelock
import pytest

if TYPE_CHECKING:
    from wavernn_trt.export.model_directory import ModelDirectory

EXPORT = Path(__file__).resolve().parents[1] / "export"


@pytest.fixture(scope="session")
def small_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelDirectory]:
    """A function layout -> its model directory, exported once for all processes of pytest-xdist: it takes seconds."""
    pytest.importorskip("torch", reason="models are exported from PyTorch")
    pytest.importorskip("onnx", reason="models are exported to ONNX")
    from wavernn_trt.export import export
    from wavernn_trt.export.model_directory import open_model_directory

    reference = _load("reference")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small_models"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def make(layout: str) -> ModelDirectory:
        path = folder / f"small-{layout}"
        with filelock.FileLock(folder / f"{layout}.lock"):
            if not path.exists():  # it appears whole
                export(reference.small_checkpoint(layout), path, steps=4)
        return open_model_directory(path)

    return make


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"engine_models_{name}", EXPORT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
