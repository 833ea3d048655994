"""The executor of an engine, on a simulated device and on a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated_device as simulated
from small_voice import SAMPLE_MEL, SMALL_VOICE

import wavernn_trt
from wavernn_trt.engines.cache import CachedPlan, EngineCache
from wavernn_trt.engines.gpu import Gpu, driver_state
from wavernn_trt.engines.plan_record import PlanRecord
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.plan_choice import require_machine
from wavernn_trt.runtime.executors.tensorrt_executor import Engine, TensorRTExecutor
from wavernn_trt.runtime.load_options import DEFAULT_OPTIONS, ENGINES, LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.vocoder import Vocoder

GPU = Gpu("NVIDIA Pretended 4000", 89)


def make_executor(voice: ModelDirectory, options: LoadOptions = DEFAULT_OPTIONS, **settings: Any) -> TensorRTExecutor:
    plans = [simulated.OnnxPlan(voice, one) for one in simulated.records(voice, **settings).values()]
    return TensorRTExecutor(voice, "tensorrt_rtx", options, GPU, Engine(simulated.SimulatedDevice(0), *plans))


@pytest.mark.usefixtures("simulated_machine")
def test_a_vocoder_on_an_engine_has_the_bits_of_the_cpu(
    voice: ModelDirectory,
    cache: EngineCache,
    store: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(steps=320)
    engine = wavernn_trt.load(SMALL_VOICE, backend="tensorrt_rtx", cache=cache.folder)
    reference = wavernn_trt.load(SMALL_VOICE, backend="onnxruntime", threads=1)
    mel = np.load(SAMPLE_MEL)
    mels = [mel[:, 40:52], mel[:, 50:54], mel[:, 60:77], mel[:, 30:32], mel[:, 44:55], mel[:, 20:23]]
    for found, expected in zip(engine.vocode_batch(mels), reference.vocode_batch(mels), strict=True):
        assert np.array_equal(found, expected)
    streamed = np.concatenate(list(engine.stream(mels[2], seed=3)))
    assert np.array_equal(streamed, reference.vocode(mels[2], seed=3))
    assert np.array_equal(engine.labels(mels[0]), reference.labels(mels[0]))
    folded = {"fold": 700, "overlap": 100}
    assert np.array_equal(engine.vocode(mels[2], **folded), reference.vocode(mels[2], **folded))


def test_mels_of_any_length_are_conditioned_as_on_the_cpu(voice: ModelDirectory) -> None:
    from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor

    executor, reference = make_executor(voice), OnnxRuntimeExecutor(voice, threads=1)
    random = np.random.default_rng(0)
    for frames in (5, 2, 64, 33, 64, 7):  # longer and shorter than the mel before
        mel = random.uniform(-1, 0, (80, frames)).astype(np.float32)
        assert np.array_equal(executor.condition(mel), reference.condition(mel))


@pytest.mark.parametrize(("frames", "wider"), [(1, "1:8:64"), (65, "2:65:128")])
def test_mels_that_an_engine_does_not_take_are_refused(voice: ModelDirectory, frames: int, wider: str) -> None:
    executor = make_executor(voice, batch=(1, 2, 8))
    with pytest.raises(VocoderError, match=f"found {frames} frames, this engine accepts 2 to 64") as raised:
        executor.condition(np.zeros((80, frames), np.float32))
    command = (
        f"wavernn-trt build {voice.path} --backend tensorrt-rtx --sm 89 --precision fp16 --batch 1:2:8 "
        f"--form sequence --steps 40 --frames {wider}"
    )
    assert str(raised.value).endswith(command)


def test_an_engine_gives_no_logits_and_names_the_backend_that_does(voice: ModelDirectory) -> None:
    executor = make_executor(voice)
    vocoder = Vocoder(LoadedModel.of(voice, executor, "decoder"))
    with pytest.raises(VocoderError, match="gives no logits, which scoring needs; use --backend onnxruntime"):
        vocoder.teacher_forced(np.zeros((80, 3), np.float32), np.zeros(600, np.int32))


def test_plans_of_another_model_s_sizes_are_refused(voice: ModelDirectory) -> None:
    records = simulated.records(voice)

    def open_with(role: str, **changes: Any) -> None:
        changed: dict[str, PlanRecord] = {**records, role: dataclasses.replace(records[role], **changes)}
        plans = [simulated.OnnxPlan(voice, one) for one in changed.values()]
        TensorRTExecutor(voice, "tensorrt_rtx", LoadOptions(), GPU, Engine(simulated.SimulatedDevice(0), *plans))

    decoder, conditioner = records["decoder"].bindings, records["conditioner"].bindings
    wrong = dataclasses.replace(decoder[0], shape=(4, 2, 7))
    with pytest.raises(VocoderError, match=r"conditioning is \(4, 2, 7\), the model's \(4, 2, 144\); build .* again"):
        open_with("decoder", bindings=(wrong, *decoder[1:]))
    with pytest.raises(VocoderError, match="frame_index is missing"):
        open_with("decoder", bindings=(decoder[0], *decoder[2:]))
    wrong = dataclasses.replace(conditioner[0], shape=(1, 40, -1), profile=None)
    with pytest.raises(VocoderError, match=r"mel is \(1, 40, -1\)"):
        open_with("conditioner", bindings=(wrong, conditioner[1]))
    open_with("decoder")


def test_the_error_of_a_plan_that_does_not_load_has_tensorrt_s_message(
    voice: ModelDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="a real TensorRT loads a file that is no plan")
    from wavernn_trt.runtime.executors.tensorrt_plan import TensorRTRuntime

    content = b"this is no plan" * 1000
    record = simulated.records(voice)["decoder"]
    right = dataclasses.replace(record, plan_sha256=hashlib.sha256(content).hexdigest(), plan_bytes=len(content))
    plan = CachedPlan(tmp_path / "no.plan", right)
    plan.plan.write_bytes(content)
    device = simulated.SimulatedDevice(0)
    with pytest.raises(VocoderError, match=r"SHA-256 of .*no\.plan differs from its record\. Build it again"):
        TensorRTRuntime("tensorrt_rtx", device).load(CachedPlan(plan.plan, record), "wavernn-trt build mine")
    with pytest.raises(VocoderError) as raised:
        TensorRTRuntime("tensorrt_rtx", device).load(plan, "wavernn-trt build mine")
    assert str(raised.value).startswith(f"{plan.plan}: TensorRT-RTX 1.")
    assert str(raised.value).endswith("build the plan again: wavernn-trt build mine")
    assert "it gives no reason" not in str(raised.value)
    (record, *_) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().removeprefix("TensorRT: ") in str(raised.value)


def test_the_runtime_cache_of_a_plan_is_kept_and_not_read_if_damaged(tmp_path: Path) -> None:
    """TensorRT-RTX makes a runtime cache on a GPU only; this one records what it receives."""
    from wavernn_trt.runtime.executors.tensorrt_plan import _CompiledKernels

    class RuntimeCache:
        given: bytes | None = None

        def create_runtime_cache(self) -> RuntimeCache:
            return self

        def set_runtime_cache(self, cache: RuntimeCache) -> None:
            assert cache is self

        def deserialize(self, content: bytes) -> bool:
            self.given = content
            return True

        def serialize(self) -> bytes:
            return b"kernels"

    def opened() -> RuntimeCache:
        cache, kernels = RuntimeCache(), _CompiledKernels(file)
        kernels.attach(cache)
        kernels.save()
        return cache

    file = tmp_path / "compiled" / "plan.bin"
    assert opened().given is None
    assert opened().given == b"kernels"
    file.write_bytes(file.read_bytes().replace(b"kern", b"corn"))
    assert opened().given is None
    assert opened().given == b"kernels"
    assert [path.name for path in file.parent.iterdir()] == ["plan.bin"]


def test_libraries_that_do_not_load_are_an_error_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavernn_trt.runtime.executors import pycuda_device

    def refuse(name: str) -> None:
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr(pycuda_device, "import_module", refuse)
    with pytest.raises(VocoderError, match=r"does not load: pycuda\.driver: undefined symbol; install them again"):
        pycuda_device.PycudaDevice()


# With a GPU.


@pytest.fixture(scope="module")
def engine_on_the_gpu(tmp_path_factory: pytest.TempPathFactory) -> Vocoder:
    """The shipped voice's engine in float32, built and opened with an installed backend."""
    state = driver_state()
    if state.reason is not None:
        pytest.skip(f"needs a GPU: {state.reason}")
    from wavernn_trt.engines.build import build_engine
    from wavernn_trt.engines.spec import EngineSpec, Extent

    reasons = []
    for backend in ENGINES:
        try:
            gpu = require_machine(backend, state)
            targets = (gpu.sm,) if backend == "tensorrt_rtx" else ()
            spec = EngineSpec(backend, "fp32", Extent(4, 4, 4), steps=256, targets=targets, frames=Extent(2, 64, 512))
        except ValueError as error:
            reasons.append(f"{backend}: {error}")
            continue
        folder = tmp_path_factory.mktemp("engines")
        build_engine(open_model_directory(SMALL_VOICE), spec, EngineCache(folder))
        return wavernn_trt.load(backend=backend, precision="fp32", cache=folder)
    pytest.skip(f"needs an engine for {state.devices[0].name}: {'; '.join(reasons)}")


@pytest.mark.gpu
def test_on_a_gpu_the_conditioning_is_the_cpu_s(engine_on_the_gpu: Vocoder) -> None:
    reference = wavernn_trt.load(SMALL_VOICE, backend="onnxruntime")
    mel = np.load(SAMPLE_MEL)
    for frames in (40, 2, 100):
        found = engine_on_the_gpu.executor.condition(mel[:, :frames])
        np.testing.assert_allclose(found, reference.executor.condition(mel[:, :frames]), atol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_the_first_labels_are_the_cpu_s(engine_on_the_gpu: Vocoder) -> None:
    reference = wavernn_trt.load(SMALL_VOICE, backend="onnxruntime")
    mel = np.load(SAMPLE_MEL)[:, 40:60]
    found, expected = engine_on_the_gpu.labels(mel, seed=1), reference.labels(mel, seed=1)
    assert (found == expected).cumprod().sum() > 500

    # After rounding separates them, the engine's samples have the same likelihood under the reference.
    def bits(labels: Any) -> float:
        logits = reference.teacher_forced(mel, labels).astype(np.float64)
        chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        highest = logits.max(axis=1)
        return float(np.mean(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - chosen) / np.log(2))

    assert bits(found) == pytest.approx(bits(expected), rel=0.1)


@pytest.mark.gpu
def test_on_a_gpu_streams_have_the_same_bits_alone_and_together(engine_on_the_gpu: Vocoder) -> None:
    mel = np.load(SAMPLE_MEL)
    mels = [mel[:, first : first + count] for first, count in ((0, 9), (20, 30), (40, 2), (50, 17), (60, 8), (70, 21))]
    together = engine_on_the_gpu.vocode_batch(mels, seeds=range(6))
    for seed, (one, found) in enumerate(zip(mels, together, strict=True)):
        assert np.array_equal(engine_on_the_gpu.vocode(one, seed=seed), found)
    interleaved = [engine_on_the_gpu.stream(one, seed=seed) for seed, one in enumerate(mels[:3])]  # three lanes
    pieces: list[list[Any]] = [[] for _ in interleaved]
    for _ in range(100):
        for number, stream in enumerate(interleaved):
            with contextlib.suppress(StopIteration):
                pieces[number].append(next(stream))
    for found, expected in zip(pieces, together, strict=False):
        assert np.array_equal(np.concatenate(found), expected)


@pytest.mark.gpu
def test_on_a_gpu_copies_fills_and_captured_work_come_in_order() -> None:
    pytest.importorskip("pycuda.driver", reason="needs pycuda, which needs an NVIDIA driver", exc_type=ImportError)
    if not driver_state().devices:
        pytest.skip(f"needs a GPU: {driver_state().reason}")
    from wavernn_trt.runtime.executors.pycuda_device import PycudaDevice

    device = PycudaDevice()
    with device.current():
        first, second, event = device.stream(), device.stream(), device.event()
        given, taken = device.pinned((4, 8), "int32"), device.pinned((4, 8), "int32")
        given[...] = np.arange(32).reshape(4, 8)
        buffer = device.allocate(given.nbytes)
        graph = first.capture(lambda: first.fill(buffer, 7, 8, 3))
        first.copy_in(buffer, given)
        first.launch(graph)
        first.record(event)
        second.wait(event)
        second.copy_out(taken, buffer)
        second.synchronize()
    expected = np.arange(32)
    expected[8:11] = 7
    assert np.array_equal(taken.reshape(-1), expected)
