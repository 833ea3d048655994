"""Small random models of every layout as model directories."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from wavernn_trt.export.model_directory import ModelDirectory

EXPORT = Path(__file__).resolve().parents[1] / "export"


@pytest.fixture(scope="session")
def small_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelDirectory]:
    """A function layout -> its model directory, exported once."""
    pytest.importorskip("torch", reason="models are exported from PyTorch")
    pytest.importorskip("onnx", reason="models are exported to ONNX")
    from wavernn_trt.export import export

    reference = _load("reference")
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def make(layout: str) -> ModelDirectory:
        return export(reference.small_checkpoint(layout), folder / f"small-{layout}", steps=4).directory

    return make


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"engine_models_{name}", EXPORT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
