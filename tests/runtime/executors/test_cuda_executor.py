"""The parts of the ``cuda`` executor that need no GPU.

The whole is tested in tests/gpu/test_backend.py and, without a GPU, tests/plugins/kernels/test_pretended_driver.py.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from wavernn_trt.engines.gpu import DriverState
from wavernn_trt.export.model_directory import ModelDirectory, window_rows
from wavernn_trt.export.operators import Precision, padded_weight
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.runtime.executors.protocol import Chunk, initial_state

pytest.importorskip("onnx_graphsurgeon", reason="the weights are read from ONNX graphs")
from wavernn_trt.runtime.executors import cuda_executor, onnx_runtime
from wavernn_trt.runtime.executors.cuda_executor import require_machine
from wavernn_trt.runtime.executors.device import NoMachineError
from wavernn_trt.runtime.executors.kernel_plan import KernelDecoder, read_decoder
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor

STEPS = 50


def test_the_weights_are_the_model_s(voice: ModelDirectory) -> None:
    """With them, the kernel's reference decodes the samples of ONNX Runtime."""
    model, window = voice.model, window_rows(voice.model, voice.audio, STEPS)
    decoder = read_decoder(voice, "fp32")
    random = np.random.default_rng(0)
    chunk = Chunk(
        random.standard_normal((2, window, model.columns)).astype(np.float32),
        random.integers(0, window, (2, STEPS), dtype=np.int32),
        random.dirichlet(np.ones(window), (2, model.interpolated, STEPS)).astype(np.float32),
        random.uniform(0, 0.999, (2, STEPS, model.uniforms)).astype(np.float32),
    )
    state = initial_state(model, 2)
    inputs: dict[str, NDArray[Any]] = {"previous": state.previous, "hidden": state.hidden}
    inputs |= {one.name: getattr(chunk, one.name, inputs.get(one.name)) for one in decoder.shape.chunk_inputs()}
    inputs |= weights_of(decoder)
    expected, _ = OnnxRuntimeExecutor(voice, threads=1).decode(chunk, state)
    assert np.array_equal(decode_sequence(decoder.shape, inputs)["samples"], expected)


def weights_of(decoder: KernelDecoder) -> dict[str, NDArray[Any]]:
    """The weights without their padding, which is zeros."""
    found = {}
    for operand, array in zip(decoder.shape.weight_inputs(), decoder.weights, strict=True):
        found[operand.name] = array
        if operand.kind == "weight":
            found[operand.name] = array[:, : operand.shape[1]]
            assert not array[:, operand.shape[1] :].any()
    return found


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "uint16")])
def test_only_matrices_are_stored_in_the_precision(voice: ModelDirectory, precision: Precision, dtype: str) -> None:
    decoder = read_decoder(voice, precision)
    for operand, array in zip(decoder.shape.weight_inputs(), decoder.weights, strict=True):
        assert array.dtype == (dtype if operand.kind == "weight" else "float32")
        assert array.shape == padded_weight(operand).shape
        assert array.flags.c_contiguous


def test_importing_the_executor_imports_no_gpu_package() -> None:
    code = (
        "import sys, wavernn_trt.runtime.executors.cuda_executor;"
        "assert not {'cuda', 'pycuda', 'onnx', 'tensorrt_rtx', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_without_a_driver_the_error_gives_its_reason() -> None:
    with pytest.raises(NoMachineError, match=r"no GPU: libcuda\.so\.1 was not found"):
        require_machine(DriverState((), "libcuda.so.1 was not found, so there is no NVIDIA driver"))


def test_mels_are_conditioned_on_the_gpu_where_onnx_runtime_supports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, with an algorithm that does not depend on timing."""
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    options = {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}
    assert onnx_runtime.conditioner_providers() == (("CUDAExecutionProvider", options), "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there[2:])
    assert onnx_runtime.conditioner_providers() == ("CPUExecutionProvider",)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_conditioner_that_falls_back_to_the_cpu_warns(
    voice: ModelDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime computes on a GPU here")
    wanted = (("CUDAExecutionProvider", {}), "CPUExecutionProvider")
    monkeypatch.setattr(cuda_executor, "conditioner_providers", lambda: wanted)
    conditioner = cuda_executor._open_conditioner(voice, threads=1)
    assert conditioner.provider == "CPUExecutionProvider"
    assert "mels are conditioned on the CPU: onnxruntime-gpu is here" in caplog.text
