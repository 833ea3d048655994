"""Small TensorRT plans with both plugins, built, loaded and run on this machine's GPU.

A test is skipped with TensorRT's message if TensorRT does not support the GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

for package in ("onnx", "onnxruntime", "filelock", "platformdirs"):
    pytest.importorskip(package, reason="plans are built from ONNX graphs, and compared with ONNX Runtime")

from gpu_graphs import cell_graph, onnx_runtime, sequence_graph
from kernel_cases import SequenceCase, small_shapes

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.engines.tensorrt_module import NAMES, TensorRTMissingError, import_tensorrt
from wavernn_trt.plugins.device_stream import DeviceStream, on_device
from wavernn_trt.plugins.tensorrt_plugins import register
from wavernn_trt.scripts.gpu.cases import Arrays

Record = Callable[[str, object], None]
TOLERANCE = 1e-3
"""TensorRT may compute float32 products in TF32."""

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("runtime_cubins")]


class RefusedError(Exception):
    """A step that TensorRT refuses, with its message."""


class Module:
    """A TensorRT module on the current device."""

    def __init__(self, backend: Any) -> None:
        self.trt: Any = import_tensorrt(backend)
        self.name = NAMES[backend]
        self.sm = driver_state().devices[0].sm
        self.messages: list[str] = []
        self.logger = collecting_logger(self.trt, self.messages)
        logging.getLogger("wavernn_trt.plugins").addHandler(CollectingHandler(self.messages))
        register(self.trt)

    @property
    def named_target(self) -> Any:
        """The module's name for this GPU, where it has one."""
        return getattr(getattr(self.trt, "ComputeCapability", None), f"SM{self.sm}", None)

    def run(self, graph: bytes, inputs: Arrays, outputs: Arrays) -> None:
        """Builds a plan for this GPU, loads and runs it.

        Raises:
            RefusedError: TensorRT refuses one of these steps.
        """
        trt = self.trt
        self.messages.clear()
        try:
            builder = trt.Builder(self.logger)
        except TypeError as error:  # how pybind11 reports that there is none
            raise RefusedError(f"{self.name} refuses a builder: {'; '.join(self.messages) or error}") from error
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.logger)
        self._need("to parse the graph", parser.parse(graph))
        config = builder.create_builder_config()
        if self.named_target is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.named_target, 0)
        plan = self._need("to build a plan", builder.build_serialized_network(network, config))
        runtime = trt.Runtime(self.logger)
        engine = self._need("to load the plan on this GPU", runtime.deserialize_cuda_engine(plan))
        context = self._need("an execution context", engine.create_execution_context())
        tensors = {**inputs, **outputs}
        stream = DeviceStream()
        try:
            with on_device(tensors.values()) as (pointers, fetch):
                for name, pointer in zip(tensors, pointers, strict=True):
                    self._need(f"the address of {name}", context.set_tensor_address(name, pointer))
                self._need("to run", context.execute_async_v3(stream.handle))
                stream.synchronize()
                fetch()
        finally:
            stream.close()

    def _need(self, what: str, given: Any) -> Any:
        if given is None or given is False:
            raise RefusedError(f"{self.name} refuses {what}: {'; '.join(self.messages[-4:]) or 'no reason given'}")
        return given


@pytest.fixture(scope="module", params=["tensorrt_rtx", "tensorrt"])
def module(request: pytest.FixtureRequest, gpu: None) -> Module:
    try:
        return Module(request.param)
    except TensorRTMissingError as error:
        pytest.skip(str(error))


def test_the_module_lists_compute_capabilities(module: Module, record_property: Record) -> None:
    listed = getattr(getattr(module.trt, "ComputeCapability", None), "__members__", {})
    names = sorted((name for name in listed if name.startswith("SM")), key=lambda name: (len(name), name))
    verdict = f"lists {', '.join(names)}, {'and' if module.named_target else 'not'} SM{module.sm}" if names else ""
    record_property("text", f"{module.name} {module.trt.__version__} {verdict}")
    record_property("noted", True)
    assert module.trt.__version__


def test_a_cell_runs_inside_a_plan(module: Module, record_property: Record) -> None:
    graph, inputs = cell_graph()
    content = graph.SerializeToString()
    compare(module, content, inputs, {"next_hidden": onnx_runtime(content, inputs)}, record_property)


def test_a_chunk_runs_inside_a_plan(module: Module, record_property: Record) -> None:
    case = SequenceCase(small_shapes()["one layer, labels"], batch=3, steps=16)
    values = case.inputs()
    graph, inputs = sequence_graph(case, values)
    reference = case.expected(values)
    expected = {operand.name: reference[operand.name] for operand in case.shape.outputs_of_node()}
    compare(module, graph.SerializeToString(), inputs, expected, record_property)


def compare(
    module: Module, graph: bytes, inputs: Arrays, expected: Mapping[str, NDArray[Any]], record_property: Record
) -> None:
    found = {name: np.full_like(value, np.nan if value.dtype == np.float32 else -1) for name, value in expected.items()}
    try:
        module.run(graph, inputs, found)
    except RefusedError as error:
        pytest.skip(str(error))
    worst = max(float(np.abs(found[name] - value).max()) for name, value in expected.items())
    record_property("error", worst)
    assert worst <= TOLERANCE  # and not for NaN


class CollectingHandler(logging.Handler):
    """Collects the messages of plugins, which TensorRT's own do not include."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


def collecting_logger(trt: Any, messages: list[str]) -> Any:
    """Returns a TensorRT logger that collects errors and warnings."""
    severity = trt.ILogger.Severity
    kept = (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING)

    class CollectingLogger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept:
                messages.append(msg.strip())

    return CollectingLogger()
