"""The choice of a backend, and the messages about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_voice import SAMPLE_MEL, SMALL_VOICE

import wavernn_trt
from wavernn_trt.engines.cache import EngineCache
from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors import registry, tensorrt_executor
from wavernn_trt.runtime.executors.native_executor import why_slow
from wavernn_trt.runtime.executors.tensorrt_executor import Engine
from wavernn_trt.runtime.load_options import ON_A_GPU
from wavernn_trt.scripts.cli import main

Store = Callable[..., None]

ON_THE_CPU = "onnxruntime" if why_slow() else "native"


@pytest.mark.usefixtures("simulated_machine")
def test_auto_takes_a_fitting_engine_and_logs_it(
    voice: ModelDirectory,
    cache: EngineCache,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store(batch=(1, 2, 8))
    with caplog.at_level(logging.DEBUG, registry.logger.name):
        vocoder = wavernn_trt.load(SMALL_VOICE, cache=cache.folder)
    assert vocoder.backend == "tensorrt_rtx"
    assert vocoder.engine is not None
    assert vocoder.engine.startswith("decoder_")
    assert (vocoder.batch, vocoder.executor.steps) == (2, 40)  # what the engine is tuned for
    assert wavernn_trt.load(SMALL_VOICE, cache=cache.folder, batch=3).batch == 3
    assert [record.levelname for record in caplog.records][:2] == ["DEBUG", "INFO"]
    assert "not tensorrt: TensorRT is not installed" in caplog.text
    assert f"tensorrt_rtx with the engine {vocoder.engine}" in caplog.text


def test_auto_takes_the_cpu_without_a_gpu_and_logs_the_reasons(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if driver_state().devices:
        pytest.skip("this machine has a GPU")
    with caplog.at_level(logging.DEBUG, registry.logger.name):
        assert wavernn_trt.load(SMALL_VOICE).backend == ON_THE_CPU
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    for backend in ON_A_GPU:
        assert f"not {backend}: no GPU: libcuda.so.1 was not found" in caplog.text


def test_auto_warns_where_the_cpu_lacks_the_precision(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, registry.logger.name):
        assert wavernn_trt.load(SMALL_VOICE, precision="fp16", cache=tmp_path).backend == "onnxruntime"
    assert "onnxruntime, which computes in fp32 and not in fp16" in caplog.text


@pytest.mark.usefixtures("simulated_machine")
def test_auto_warns_where_a_gpu_is_unused_because_there_is_no_plan(
    voice: ModelDirectory,
    cache: EngineCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vocoder = wavernn_trt.load(SMALL_VOICE, cache=cache.folder)
    assert (vocoder.backend, vocoder.engine) == (ON_THE_CPU, None)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"wavernn-trt build {voice.path} --backend tensorrt-rtx --sm 89 -o {cache.folder}" in warning.getMessage()


@pytest.mark.usefixtures("simulated_machine")
@pytest.mark.parametrize("kind", [VocoderError, RuntimeError, OSError])
def test_auto_falls_back_where_an_engine_does_not_load(
    kind: type[Exception],
    voice: ModelDirectory,
    cache: EngineCache,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store()

    def refuse(*_: Any) -> Engine:
        raise kind("TensorRT-RTX does not load it")

    monkeypatch.setattr(tensorrt_executor, "load_engine", refuse)
    assert wavernn_trt.load(SMALL_VOICE, cache=cache.folder).backend == ON_THE_CPU
    assert "not tensorrt_rtx: TensorRT-RTX does not load it" in caplog.text
    with pytest.raises(VocoderError, match=r"backend tensorrt_rtx: TensorRT-RTX does not load it\. To use"):
        wavernn_trt.load(SMALL_VOICE, backend="tensorrt_rtx", cache=cache.folder)


@pytest.mark.usefixtures("simulated_machine")
def test_the_command_line_shows_the_engine(
    cache: EngineCache,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store(steps=400, precision="bf16")
    store(steps=400, precision="fp16")
    mel = tmp_path / "mel.npy"
    np.save(mel, np.load(SAMPLE_MEL)[:, :10])
    output = tmp_path / "speech.wav"
    arguments = ["vocode", str(mel), "-o", str(output), "--model", str(SMALL_VOICE), "--precision", "bf16", "--json"]
    assert main([*arguments, "--cache", str(cache.folder)]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["backend"], report["engine"][:8]) == ("tensorrt_rtx", "decoder_")
    assert f"(tensorrt_rtx, {report['engine']})" in printed.err
    assert output.exists()


@pytest.mark.usefixtures("simulated_machine")
def test_scoring_uses_no_engine_by_default(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("platformdirs", reason="the user's own cache is found with platformdirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store()
    assert wavernn_trt.load(SMALL_VOICE).backend == "tensorrt_rtx"
    recording = tmp_path / "clip.wav"
    soundfile.write(recording, 0.1 * np.sin(np.arange(2000) / 9), 16000)
    score = ["score", str(SMALL_VOICE), str(recording), "--teacher-forced-only", "--json", "-q"]
    assert main(score) == 0
    capsys.readouterr()
    assert main([*score, "--backend", "tensorrt-rtx"]) == 2
    assert "gives no logits, which scoring needs; use --backend onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "precision: found 'int4', expected one of fp32, fp16, bf16"),
        ({"precision": "fp16", "backend": "onnxruntime"}, "found 'fp16' for onnxruntime, which has no choice"),
    ],
)
def test_invalid_precisions_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        wavernn_trt.load(SMALL_VOICE, **arguments)
