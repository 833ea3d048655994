"""What a model is said to take is near what it takes, and grows with what is decoded together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wavernn_trt.export.model_directory import CONFIG, WEIGHTS, ModelDirectoryError
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.vocoder import shipped_voice


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc, as Linux has it")
def test_the_estimate_is_what_a_model_in_use_takes() -> None:
    pytest.importorskip("onnxruntime", reason="what it takes is measured")
    code = """
import json, numpy as np
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.conditioning import ConditioningWindows
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Chunk, initial_state
from wavernn_trt.runtime.vocoder import shipped_voice

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def use(streams, frames):
    executor = OnnxRuntimeExecutor(directory, 1)
    rows = executor.condition(np.tile(mel, 10)[:, :frames])
    cut = ConditioningWindows(directory.model, directory.audio, 320).cut(rows, 0)
    parts = cut.rows, cut.frame_index, cut.interpolation, np.full((320, 1), 0.5, np.float32)
    chunk = Chunk(*(np.stack([part] * streams) for part in parts))
    for _ in range(2):
        executor.decode(chunk, initial_state(directory.model, streams))
    return executor

directory = open_model_directory(shipped_voice())
mel = np.load(shipped_voice().parent / "sample_mel.npy")
first = use(1, 1)  # what ONNX Runtime takes for itself
found = []
for streams in (1, 8, 16):
    before = resident()
    kept = use(streams, 1000)
    found.append(resident() - before)
    first = first, kept
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    estimated = [estimated_bytes(shipped_voice(), streams=streams) for streams in (1, 8, 16)]
    assert estimated == pytest.approx(found, rel=0.2)


def test_more_streams_take_more_and_backends_differ() -> None:
    one, eight = (estimated_bytes(shipped_voice(), streams=streams) for streams in (1, 8))
    assert eight > 2 * one
    whole = estimated_bytes(shipped_voice(), "tensorrt_rtx", "fp32")
    half = estimated_bytes(shipped_voice(), "tensorrt_rtx", "fp16")
    assert whole - half == (shipped_voice() / WEIGHTS).stat().st_size / 2
    assert estimated_bytes(shipped_voice(), "cuda", "fp16") == half
    assert estimated_bytes(shipped_voice(), "torch") == (shipped_voice() / "checkpoint.safetensors").stat().st_size


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}, "audio": 3}', None])
def test_what_is_no_model_is_refused_as_when_it_is_loaded(tmp_path: Path, content: str | None) -> None:
    model = tmp_path / "alto"
    shutil.copytree(shipped_voice(), model)
    if content is None:
        (model / CONFIG).unlink()
    else:
        (model / CONFIG).write_text(content)
    with pytest.raises(ModelDirectoryError, match=r"config\.json is (damaged|missing)"):
        estimated_bytes(model)
