"""Estimates of the memory of loaded models, compared with processes."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from wavernn_trt.export.model_directory import (
    CONFIG,
    WEIGHTS,
    ModelDirectoryError,
    open_model_directory,
    write_manifest,
)
from wavernn_trt.export.quantization import Product, Quantization
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.vocoder import shipped_voice


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function grid -> the shipped voice in it, made once."""
    pytest.importorskip("onnx_graphsurgeon", reason="graphs are rewritten")
    from wavernn_trt.calibration.quantize import quantize

    folder = tmp_path_factory.mktemp("quantised")

    @functools.cache
    def make(grid: Literal["int8", "fp8"]) -> Path:
        products = {name: Product(grid, bound) for name, bound in (("recurrent_0", 1.0), ("fc_0", 8.0))}
        return quantize(open_model_directory(shipped_voice()), Quantization(products), folder / grid, steps=2).path

    return make  # type: ignore[return-value]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc, as Linux has it")
@pytest.mark.parametrize(
    ("backend", "grid"),
    [("onnxruntime", "float32"), ("onnxruntime", "int8"), ("onnxruntime", "fp8"), ("native", "float32")],
)
def test_the_estimate_is_near_the_memory_of_a_model_in_use(
    backend: str, grid: str, quantised: Callable[[str], Path]
) -> None:
    path = shipped_voice() if grid == "float32" else quantised(grid)
    code = """
import json, sys, numpy as np
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.executors.registry import open_executor
from wavernn_trt.runtime.executors.protocol import Chunk, initial_state
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.vocoder import shipped_voice

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def use(streams, frames):
    executor, _ = open_executor(directory, LoadOptions(sys.argv[2], threads=1))
    rows = executor.condition(np.tile(mel, 10)[:, :frames])
    cut = ConditioningWindows(directory.model, directory.audio, 320).cut(rows, 0)
    parts = cut.rows, cut.frame_index, cut.interpolation, np.full((320, 1), 0.5, np.float32)
    chunk = Chunk(*(np.stack([part] * streams) for part in parts))
    for _ in range(2):
        executor.decode(chunk, initial_state(directory.model, streams))
    return executor

directory = open_model_directory(sys.argv[1])
mel = np.load(shipped_voice().parent / "sample_mel.npy")
first = use(1, 1)  # memory of ONNX Runtime itself
found = []
for streams in (1, 8, 16):
    before = resident()
    kept = use(streams, 1000)
    found.append(resident() - before)
    first = first, kept
print(json.dumps(found))
"""
    command = [sys.executable, "-c", code, str(path), backend]
    estimated = [estimated_bytes(path, backend, streams=streams) for streams in (1, 8, 16)]
    found = []
    for _ in range(3):  # the system takes pages back on a loaded machine
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        found.append(json.loads(done.stdout))
        # The native decoder's weights are read as float32 before they are packed.
        if estimated == pytest.approx(found[-1], rel=0.2, abs=6e6 if backend == "native" else 3e6):
            return
    pytest.fail(f"estimated {estimated}, found {found}")


def test_more_streams_take_more_and_backends_differ() -> None:
    one, eight = (estimated_bytes(shipped_voice(), streams=streams) for streams in (1, 8))
    assert eight > 2 * one
    whole = estimated_bytes(shipped_voice(), "tensorrt_rtx", "fp32")
    half = estimated_bytes(shipped_voice(), "tensorrt_rtx", "fp16")
    assert whole - half == (shipped_voice() / WEIGHTS).stat().st_size / 2
    assert estimated_bytes(shipped_voice(), "cuda", "fp16") == half
    assert estimated_bytes(shipped_voice(), "torch") == (shipped_voice() / "checkpoint.safetensors").stat().st_size


def test_the_estimate_of_a_quantised_model_depends_on_the_backend(quantised: Callable[[str], Path]) -> None:
    """The directory holds weights for TensorRT and for ONNX Runtime, of which a backend loads one kind."""
    recurrent, dense = 3 * 384 * 384, 384 * 256
    whole = estimated_bytes(shipped_voice())
    assert whole - estimated_bytes(quantised("int8")) == pytest.approx(1.4 * 3 * (recurrent + dense), rel=0.02)
    assert estimated_bytes(quantised("fp8")) == pytest.approx(whole, rel=1e-3)
    for backend in ("tensorrt_rtx", "cuda"):
        plain = estimated_bytes(shipped_voice(), backend, "fp16")
        assert estimated_bytes(quantised("fp8"), backend, "fp16") == pytest.approx(plain, rel=1e-3)


def test_an_unknown_default_precision_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "alto"
    shutil.copytree(shipped_voice(), model)
    (model / CONFIG).write_text((model / CONFIG).read_text().replace('"int8"', '"int4"'))
    write_manifest(model)
    with pytest.raises(ModelDirectoryError, match="cpu_precision is 'int4', expected one of fp32, bf16, int8"):
        estimated_bytes(model, "native")


@pytest.mark.parametrize("content", ["", '{"model": {}, "audio": 3}', None])
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: str | None) -> None:
    model = tmp_path / "alto"
    shutil.copytree(shipped_voice(), model)
    if content is None:
        (model / CONFIG).unlink()
    else:
        (model / CONFIG).write_text(content)
    with pytest.raises(ModelDirectoryError, match=r"config\.json is (damaged|missing)"):
        estimated_bytes(model)
