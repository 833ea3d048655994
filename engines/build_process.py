"""The process that builds one plan: graph, network, plan. Started by `wavernn_trt.engines.build` only.

A separate process frees the memory of a thousand unrolled steps when it ends, turns an abort inside TensorRT into an
error message, and can be killed at any moment. It reads a `BuildRequest` (one line of JSON) from standard input, and
exits when that is closed, so it never outlives its parent. It writes events, one line of JSON each, to standard output:
stages, progress, TensorRT's log, and a `BuildResult` or an error. Output of native code goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wavernn_trt.engines.build_events import Events, PluginLog, event_logger, event_monitor
from wavernn_trt.engines.plan_record import Binding, PluginUse
from wavernn_trt.engines.spec import EngineSpec, Extent, Role
from wavernn_trt.engines.tensorrt_module import import_tensorrt
from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.typed_json import from_json

GRAPH = "graph.onnx"
WEIGHTS = "graph.weights"
PLAN = "engine.plan"
PARSING = "parsing the graph"
NO_MEMORY = "out of memory"

_Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""An input's smallest, optimal and largest shape."""
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
    "FP8": "float8_e4m3",
}


@dataclass(frozen=True)
class BuildRequest:
    """One plan to build."""

    directory: str
    """A verified model directory."""
    spec: EngineSpec
    role: Role
    folder: str
    """Receives the plan and the process's other files."""
    timing_cache: str | None
    """File of TensorRT's kernel timings, which makes a second build of a similar graph faster; need not exist."""
    memory_limit: int | None
    """Bytes that the process may allocate; ``None`` is no limit."""


@dataclass(frozen=True)
class BuildResult:
    """Description of the built plan; fields as in `wavernn_trt.engines.plan_record.PlanRecord`."""

    bindings: tuple[Binding, ...]
    plugins: tuple[PluginUse, ...]
    layers: dict[str, int]
    precisions: dict[str, dict[str, int]]
    products: dict[str, str] | None
    window: int | None
    graph_sha256: str
    build_seconds: float
    peak_bytes: int


class BuildRefusedError(RuntimeError):
    """TensorRT did not make a plan."""


def main() -> None:
    """Runs one request; the exit code is 0, or 1 after an ``error`` event."""
    from google.protobuf.message import EncodeError

    # Native code may print to descriptor 1: reserve a copy of it for events.
    events = Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    request = from_json(BuildRequest, json.loads(sys.stdin.readline()), "request")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if request.memory_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (request.memory_limit, request.memory_limit))
        events.send("result", **dataclasses.asdict(build_plan(request, events)))
    except (MemoryError, EncodeError):  # the latter is protobuf's when it finds no memory
        events.send("error", text=NO_MEMORY)
        sys.exit(1)
    except OSError as error:  # usually a full disk; the cache explains it
        name = None if error.filename is None else os.fsdecode(error.filename)
        events.send("error", text=str(error), errno=error.errno, filename=name)
        sys.exit(1)
    except (ValueError, BuildRefusedError) as error:
        events.send("error", text=str(error))
        sys.exit(1)
    except Exception as error:  # with its traceback, which the parent shows
        events.send("error", text=f"{type(error).__name__}: {error}")
        raise


def build_plan(request: BuildRequest, events: Events) -> BuildResult:
    """Builds one plan into the request's folder and describes it.

    Args:
        request: what to build.
        events: receives stages, progress and TensorRT's log.

    Raises:
        ValueError: the graph cannot be made, or TensorRT would refuse it.
        BuildRefusedError: TensorRT refused it.
    """
    import wavernn_trt.engines.graphs as graphs
    from wavernn_trt.engines.product_precisions import precisions_in_network
    from wavernn_trt.export.graph_files import write_models
    from wavernn_trt.export.model_directory import file_sha256, open_model_directory
    from wavernn_trt.export.operators import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION

    started = time.perf_counter()
    spec, role, folder = request.spec, request.role, Path(request.folder)
    events.send("stage", name="rewriting the graph")
    directory = open_model_directory(request.directory)
    graph = graphs.engine_graph(directory, spec, role)
    weights = graphs.product_weights(directory, spec.form) if role == "decoder" else None
    plugins = Counter(node.op_type for node in graph.graph.node if node.domain == DOMAIN)
    write_models(folder, {GRAPH: graph}, WEIGHTS)
    del graph
    timing_file = None if request.timing_cache is None else Path(request.timing_cache)
    network, profiles = _build(folder, spec, role, timing_file, events)
    layers, precisions = _layers(network)
    return BuildResult(
        bindings=_bindings(network, profiles),
        plugins=tuple(
            PluginUse(name, PLUGIN_VERSION, PLUGIN_NAMESPACE, count) for name, count in sorted(plugins.items())
        ),
        layers=layers,
        precisions=precisions,
        products=None if weights is None else precisions_in_network(network, weights),
        window=graphs.decoder_window(directory, spec) if role == "decoder" else None,
        graph_sha256=file_sha256(folder / GRAPH, folder / WEIGHTS),
        build_seconds=round(time.perf_counter() - started, 2),
        peak_bytes=_peak_bytes(),
    )


def _build(
    folder: Path, spec: EngineSpec, role: Role, timing_file: Path | None, events: Events
) -> tuple[Any, dict[str, _Shapes]]:
    """Writes the plan of a folder's graph; returns the network that TensorRT parsed and its inputs' profiles."""
    from wavernn_trt.plugins.tensorrt_plugins import register

    trt = import_tensorrt(spec.backend)
    logging.getLogger("wavernn_trt").addHandler(PluginLog(events))
    logger = event_logger(trt, events)
    register(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # raised by pybind11 where TensorRT returns null
        raise BuildRefusedError("TensorRT made no builder; regular TensorRT builds on a GPU with its driver") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    events.send("stage", name=PARSING)
    if not parser.parse_from_file(str(folder / GRAPH)):
        raise BuildRefusedError(_parser_errors(parser))
    config = builder.create_builder_config()
    config.progress_monitor = event_monitor(trt, events)
    if spec.targets:
        config.num_compute_capabilities = len(spec.targets)
        for index, target in enumerate(spec.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target}"), index)
    profiles = _add_profile(builder, config, network, spec, role)
    logger.parsed = True
    if timing_file is not None:
        _use_timing_cache(config, timing_file)
    events.send("stage", name="building the plan")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildRefusedError("TensorRT made no plan")
    if timing_file is not None and (measured := config.get_timing_cache()) is not None:
        write_atomic(timing_file, memoryview(measured.serialize()))
    with (folder / PLAN).open("wb") as file:
        file.write(memoryview(plan))
    return network, profiles


def _use_timing_cache(config: Any, file: Path) -> None:
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is not None:
        # A cache of another GPU or version is refused here; the build then starts with an empty one.
        config.set_timing_cache(cache, ignore_mismatch=False)


def _add_profile(builder: Any, config: Any, network: Any, spec: EngineSpec, role: Role) -> dict[str, _Shapes]:
    """Adds one optimisation profile with every input that has a dynamic dimension; returns the inputs' shapes."""
    extent: Extent = spec.frames if role == "conditioner" else spec.batch
    profile = builder.create_optimization_profile()
    low, usual, high = extent.as_tuple()
    shapes: dict[str, _Shapes] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tensor.shape:
            shapes[tensor.name] = _sized(tensor, low), _sized(tensor, usual), _sized(tensor, high)
            profile.set_shape(tensor.name, *shapes[tensor.name])
    if shapes:
        config.add_optimization_profile(profile)
    return shapes


def _sized(tensor: Any, size: int) -> tuple[int, ...]:
    return tuple(size if dimension == -1 else dimension for dimension in tensor.shape)


def _bindings(network: Any, profiles: dict[str, _Shapes]) -> tuple[Binding, ...]:
    def binding(kind: Literal["input", "output"], tensor: Any) -> Binding:
        return Binding(tensor.name, kind, _dtype(tensor), tuple(tensor.shape), profiles.get(tensor.name))

    inputs = [binding("input", network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [binding("output", network.get_output(index)) for index in range(network.num_outputs)]
    return (*inputs, *outputs)


def _layers(network: Any) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Counts the layers of each type before fusion, and for each type the dtypes of its outputs."""
    layers: Counter[str] = Counter()
    precisions: dict[str, Counter[str]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        layers[layer.type.name] += 1
        if layer.num_outputs:
            precisions.setdefault(layer.type.name, Counter())[_dtype(layer.get_output(0))] += 1
    return dict(layers), {name: dict(counts) for name, counts in precisions.items()}


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _DTYPES.get(name, name.lower())


def _parser_errors(parser: Any) -> str:
    lines = []
    for index in range(min(parser.num_errors, 5)):
        error = parser.get_error(index)
        lines.append(f"node {error.node_name()} ({error.node_operator()}): {error.desc()}")
    return "TensorRT's parser refused the graph: " + ("; ".join(lines) or "it gave no reason")


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent closes it or exits
    os._exit(1)


def _peak_bytes() -> int:
    """Peak resident memory of this process. ``getrusage`` would include its parent's memory from before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
