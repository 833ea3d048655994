"""Whether a TensorRT module builds for this GPU and runs there: tiny plans with both plugins, then the tests."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.engines.spec import Backend
from wavernn_trt.engines.tensorrt_module import NAMES, TensorRTMissingError, import_tensorrt
from wavernn_trt.plugins.device_stream import DeviceStream, on_device
from wavernn_trt.plugins.kernel_cases import Arrays, SequenceCase, small_shapes
from wavernn_trt.plugins.tensorrt_plugins import register
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Task

ROOT = Path(__file__).resolve().parents[2]
TEST_PACKAGES = ("pytest", "hypothesis", "pycuda", "soundfile", "onnx_graphsurgeon", "filelock")
TEST_SECONDS = 80.0
PLUGIN_PACKAGES = ("filelock", "platformdirs")
TOLERANCE = 1e-3
"""TensorRT's own float32 products may be TF32."""
_MODEL = "one layer, labels"


class RefusedError(Exception):
    """What TensorRT refuses, in its own words."""


def plan_tasks(backend: Backend, settings: Settings) -> list[Task]:
    """Both plugins in tiny plans, then the project's tests for a GPU.

    Args:
        backend: the module.
        settings: of the run.
    """
    module = functools.cache(functools.partial(_Module, backend))
    return [
        Task(backend, "takes this GPU", "", lambda: module().targets()),
        Task(backend, "CustomGRUPlugin", "", lambda: _cell(module())),
        Task(backend, "WaveRNNSequencePlugin", "", lambda: _sequence(module())),
        Task(backend, "pytest -m gpu", "", lambda: _tests(module(), settings.folder)),
    ]


class _Module:
    """A TensorRT module on the current device."""

    def __init__(self, backend: Backend) -> None:
        try:
            self.trt = import_tensorrt(backend)
        except TensorRTMissingError as error:
            raise MissingError(str(error)) from error
        self.backend = backend
        self.sm = driver_state().devices[0].sm
        self.words: list[str] = []
        self.ran = False
        self.logger = _keeping_logger(self.trt, self.words)
        logging.getLogger("wavernn_trt.plugins").addHandler(_KeepingHandler(self.words))
        register(self.trt)

    @property
    def named_target(self) -> Any:
        """The module's name for this GPU, where it has one."""
        return getattr(getattr(self.trt, "ComputeCapability", None), f"SM{self.sm}", None)

    def targets(self) -> Outcome:
        """Which compute capabilities it lists, and this GPU's among them or not."""
        listed = getattr(self.trt, "ComputeCapability", None)
        found = (name for name in getattr(listed, "__members__", {}) if name.startswith("SM"))
        names = sorted(found, key=lambda name: (len(name), name))
        text = f"{NAMES[self.backend]} {self.trt.__version__}"
        if names:
            text += f" lists {', '.join(names)}, {'and' if self.named_target is not None else 'not'} SM{self.sm}"
        return Outcome("noted", text, {"version": self.trt.__version__, "listed": names})

    def run(self, graph: bytes, inputs: Arrays, outputs: Arrays) -> None:
        """Builds a plan for this GPU, deserialises and runs it.

        Raises:
            RefusedError: it does not; with its words.
        """
        trt = self.trt
        self.words.clear()
        try:
            builder = trt.Builder(self.logger)
        except TypeError as error:  # how pybind11 says that there is none
            raise RefusedError(f"{NAMES[self.backend]} refuses a builder: {'; '.join(self.words) or error}") from error
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
            self.ran = True
        finally:
            stream.close()

    def _need(self, what: str, given: Any) -> Any:
        if given is None or given is False:
            raise RefusedError(f"{NAMES[self.backend]} refuses {what}: {'; '.join(self.words[-4:]) or 'no reason'}")
        return given


def _cell(module: _Module) -> Outcome:
    from wavernn_trt.scripts.gpu.tiny_graphs import cell_graph

    graph, inputs = cell_graph()
    expected = _onnx_runtime(graph.SerializeToString(), inputs)
    return _compare(module, graph.SerializeToString(), inputs, {"next_hidden": expected})


def _sequence(module: _Module) -> Outcome:
    from wavernn_trt.scripts.gpu.tiny_graphs import sequence_graph

    case = SequenceCase(small_shapes()[_MODEL], batch=3, steps=16)
    values = case.inputs()
    graph, inputs = sequence_graph(case, values)
    reference = case.expected(values)
    expected = {operand.name: reference[operand.name] for operand in case.shape.outputs_of_node()}
    return _compare(module, graph.SerializeToString(), inputs, expected)


def _compare(module: _Module, graph: bytes, inputs: Arrays, expected: Mapping[str, NDArray[Any]]) -> Outcome:
    missing = [name for name in PLUGIN_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f"not installed: {', '.join(missing)}, which plugins find their compiled kernels with")
    found = {name: np.full_like(value, np.nan if value.dtype == np.float32 else -1) for name, value in expected.items()}
    try:
        module.run(graph, inputs, found)
    except RefusedError as error:
        return Outcome("noted", str(error), {"words": list(module.words)})
    worst = max(float(np.abs(found[name] - value).max()) for name, value in expected.items())
    right = worst <= TOLERANCE  # and not for NaN
    return Outcome("passed" if right else "failed", f"built, loaded and run; differs by {worst:.2g}", {"error": worst})


def _onnx_runtime(graph: bytes, inputs: Arrays) -> NDArray[Any]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed, which the plan is compared with") from error
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, inputs)
    return np.asarray(result)


def _tests(module: _Module, folder: Path) -> Outcome:
    """The project's own tests for a GPU, in which this module builds and runs the shipped voice's engine."""
    if not module.ran:
        raise MissingError("its tiny plans did not run here")
    missing = [name for name in TEST_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f"not installed: {', '.join(missing)}")
    if not (ROOT / "tests").is_dir():
        raise MissingError(f"there is no {ROOT / 'tests'}")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rf", "-p", "no:cacheprovider", str(ROOT / "tests")]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=_absolute_paths(), capture_output=True, text=True, check=False, timeout=TEST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Outcome("skipped", f"no end within {TEST_SECONDS:.0f} s")
    (folder / f"pytest_{module.backend}.log").write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    text = lines[-1] if lines else f"pytest ended with {done.returncode}"
    return Outcome("passed" if done.returncode == 0 else "failed", text, {"exit_code": done.returncode})


def _absolute_paths() -> dict[str, str]:
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in paths)}


class _KeepingHandler(logging.Handler):
    """Keeps what a plugin refuses, which TensorRT's own words leave out."""

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        self._words.append(record.getMessage())


def _keeping_logger(trt: Any, words: list[str]) -> Any:
    severity = trt.ILogger.Severity
    kept = (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING)

    class KeepingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept:
                words.append(msg.strip())

    return KeepingLogger()
