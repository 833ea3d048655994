"""What runs in a build's own process: graph, network, plan. Started by `wavernn_trt.engines.build`, not by people.

A process of its own gives the memory of a thousand unrolled steps back, turns an abort inside TensorRT into an error
message, and can be ended at any moment. It reads one request (a line of JSON) from standard input, and ends when that
is closed, so that it never outlives who asked. It writes events, a line of JSON each, to what was its standard output;
whatever native code prints goes to standard error.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from wavernn_trt.engines.build_events import Events, PluginLog, event_logger, event_monitor
from wavernn_trt.engines.spec import EngineSpec, Extent, Role
from wavernn_trt.engines.tensorrt_module import import_tensorrt
from wavernn_trt.engines.timing_cache import TimingCache

GRAPH = "graph.onnx"
WEIGHTS = "graph.weights"
PLAN = "engine.plan"
PARSING = "parsing the graph"
NO_MEMORY = "out of memory"

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


class BuildRefusedError(RuntimeError):
    """TensorRT did not make a plan."""


def main() -> None:
    """Serves one request; the exit code is 0, or 1 after an ``error`` event."""
    # Native code may print to descriptor 1: keep it for events alone.
    events = Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if request["memory_limit"]:
            resource.setrlimit(resource.RLIMIT_DATA, (request["memory_limit"], request["memory_limit"]))
        events.send("result", **build_plan(request, events))
    except MemoryError:
        events.send("error", text=NO_MEMORY)
        sys.exit(1)
    except OSError as error:  # a full disk, mostly: the cache says it in its own words
        name = None if error.filename is None else os.fsdecode(error.filename)
        events.send("error", text=str(error), errno=error.errno, filename=name)
        sys.exit(1)
    except (ValueError, BuildRefusedError) as error:
        events.send("error", text=str(error))
        sys.exit(1)
    except Exception as error:  # with its traceback, which the parent shows
        events.send("error", text=f"{type(error).__name__}: {error}")
        raise


def build_plan(request: dict[str, Any], events: Events) -> dict[str, Any]:
    """Builds one plan into ``request["folder"]`` and describes it.

    Args:
        request: ``directory``, ``spec``, ``role``, ``folder`` and ``timing_cache`` (a file, or null).
        events: told of stages, progress and what TensorRT logs.

    Raises:
        ValueError: the graph cannot be made, or would be refused.
        BuildRefusedError: TensorRT refused it.
    """
    import wavernn_trt.engines.graphs as graphs
    from wavernn_trt.export.graph_files import write_models
    from wavernn_trt.export.model_directory import open_model_directory
    from wavernn_trt.export.operators import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION

    started = time.perf_counter()
    spec, role, folder = EngineSpec.from_json(request["spec"]), request["role"], Path(request["folder"])
    events.send("stage", name="rewriting the graph")
    directory = open_model_directory(request["directory"])
    graph = graphs.engine_graph(directory, spec, role)
    weights = graphs.product_weights(directory, spec.form) if role == "decoder" else None
    plugins = Counter(node.op_type for node in graph.graph.node if node.domain == DOMAIN)
    write_models(folder, {GRAPH: graph}, WEIGHTS)
    del graph
    timing_file = Path(request["timing_cache"]) if request["timing_cache"] else None
    described = _build(folder, spec, role, timing_file, events, weights)
    return {
        **described,
        "plugins": [
            {"name": name, "version": PLUGIN_VERSION, "namespace": PLUGIN_NAMESPACE, "count": count}
            for name, count in sorted(plugins.items())
        ],
        "window": graphs.decoder_window(directory, spec) if role == "decoder" else None,
        "graph_sha256": _sha256(folder / GRAPH, folder / WEIGHTS),
        "build_seconds": round(time.perf_counter() - started, 2),
        "peak_bytes": _peak_bytes(),
    }


def _build(
    folder: Path,
    spec: EngineSpec,
    role: Role,
    timing_file: Path | None,
    events: Events,
    weights: dict[str, str] | None,
) -> dict[str, Any]:
    from wavernn_trt.engines.product_precisions import precisions_in_network
    from wavernn_trt.plugins.tensorrt_plugins import register

    trt = import_tensorrt(spec.backend)
    logging.getLogger("wavernn_trt").addHandler(PluginLog(events))
    logger = event_logger(trt, events)
    register(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # how pybind11 says that there is none
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
    timing_cache = TimingCache(config, timing_file) if timing_file is not None else None
    events.send("stage", name="building the plan")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildRefusedError("TensorRT made no plan")
    if timing_cache is not None:
        timing_cache.save()
    with (folder / PLAN).open("wb") as file:
        file.write(memoryview(plan))
    products = None if weights is None else precisions_in_network(network, weights)
    return {**_describe(network, profiles), "products": products}


def _add_profile(
    builder: Any, config: Any, network: Any, spec: EngineSpec, role: Role
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """One optimisation profile for every input with a dynamic dimension; each has one at most."""
    extent: Extent = spec.frames if role == "conditioner" else spec.batch
    profile = builder.create_optimization_profile()
    shapes = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tensor.shape:
            shapes[tensor.name] = tuple(
                tuple(size if dimension == -1 else dimension for dimension in tensor.shape)
                for size in extent.as_tuple()
            )
            profile.set_shape(tensor.name, *shapes[tensor.name])
    if shapes:
        config.add_optimization_profile(profile)
    return shapes


def _describe(network: Any, profiles: dict[str, tuple[tuple[int, ...], ...]]) -> dict[str, Any]:
    """Bindings, and the layers as they stood in the network before TensorRT fused them."""
    bindings = []
    for kind, count, get in (
        ("input", network.num_inputs, network.get_input),
        ("output", network.num_outputs, network.get_output),
    ):
        for index in range(count):
            tensor = get(index)
            bindings.append(
                {
                    "name": tensor.name,
                    "kind": kind,
                    "dtype": _dtype(tensor),
                    "shape": list(tensor.shape),
                    "profile": profiles.get(tensor.name),
                }
            )
    layers: Counter[str] = Counter()
    precisions: dict[str, Counter[str]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        layers[layer.type.name] += 1
        if layer.num_outputs:
            precisions.setdefault(layer.type.name, Counter())[_dtype(layer.get_output(0))] += 1
    return {"bindings": bindings, "layers": dict(layers), "precisions": {k: dict(v) for k, v in precisions.items()}}


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
    sys.stdin.read()  # ends when the parent closes it, or has gone
    os._exit(1)


def _peak_bytes() -> int:
    """Most memory that this process had resident. ``getrusage`` would count its parent's, as it was before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _sha256(*files: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
