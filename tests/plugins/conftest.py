"""Small random models of every layout, as sequences and as unrolled decoders."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from numpy.typing import NDArray

from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.compilers import Nvcc, find_nvcc

if TYPE_CHECKING:
    from wavernn_trt.export.checkpoints.checkpoint import Checkpoint
    from wavernn_trt.export.config import ModelConfig
    from wavernn_trt.export.networks import Networks
    from wavernn_trt.export.rewrite.fuse_sequence import FusedSequence

TESTS = Path(__file__).resolve().parents[1]
EXPORT = TESTS / "export"
MODELS = TESTS / "fixtures" / "models"


@dataclasses.dataclass(frozen=True)
class SmallDecoder:
    """A model of tests/fixtures: with fused gates, and as one node."""

    directory: ModelDirectory
    fused: Networks
    sequence: FusedSequence

    @property
    def model(self) -> ModelConfig:
        return dataclasses.replace(self.directory.model, groups=self.fused.groups)

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """What the directory was exported from."""
        checkpoint: Checkpoint = _load(EXPORT / "reference.py").small_checkpoint(self.directory.path.name)
        return checkpoint

    def chunk(self, steps: int, batch: int, window: int = 5, seed: int = 5) -> dict[str, NDArray[Any]]:
        """Random inputs of the decoder."""
        from decoder_graphs import decoder_inputs

        return decoder_inputs(self.model, steps=steps, batch=batch, window=window, seed=seed)

    def operands(self, chunk: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A chunk's inputs with the weights that a sequence node has beside them."""
        return {**chunk, **self.sequence.weights}


@pytest.fixture(scope="session")
def nvcc() -> Nvcc:
    found = find_nvcc()
    if found is None:
        pytest.skip("nvcc is not on PATH and not in /usr/local/cuda")
    return found


@pytest.fixture(scope="session")
def compiled_kernels(nvcc: Nvcc, tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    """A cache of cubins, one for all processes of pytest-xdist: some take twenty seconds."""
    folder = tmp_path_factory.getbasetemp()
    return KernelCache((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cubins", nvcc)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/export/reference.py."""
    pytest.importorskip("torch", reason="the families are PyTorch modules")
    return _load(EXPORT / "reference.py")


@pytest.fixture(scope="session")
def small_decoder() -> Callable[[str], SmallDecoder]:
    """A function layout -> its small decoder, made once."""
    pytest.importorskip("onnx", reason="the step is an ONNX graph")
    from wavernn_trt.export.rewrite.from_directory import read_networks
    from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
    from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence

    @functools.cache
    def make(layout: str) -> SmallDecoder:
        directory = open_model_directory(MODELS / layout)
        fused = fuse_gates(read_networks(directory), directory.model.input_sizes)
        model = dataclasses.replace(directory.model, groups=fused.groups)
        return SmallDecoder(directory, fused, fuse_sequence(fused, model))

    return make


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"models_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
