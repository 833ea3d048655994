"""Run as a script: loads a TensorRT module, registers the plugins, and prints the result of each request as JSON.

A process of its own, because TensorRT's libraries are found by what LD_LIBRARY_PATH was when it started.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from wavernn_trt.export.operators import PLUGIN_NAMESPACE, PLUGIN_VERSION
from wavernn_trt.plugins.operations import GruOperation
from wavernn_trt.plugins.tensorrt_adapter import PluginMethods, read_fields, write_fields
from wavernn_trt.plugins.tensorrt_plugins import make_creator, register

TYPES = ("FLOAT", "HALF", "BF16", "INT32", "INT8", "INT64")


class Messages(logging.Handler):
    """Keeps the log messages of the plugins."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def registered(trt: Any) -> dict[str, Any]:
    names = [register(trt), register(trt)]
    creators = [
        [creator.name, creator.plugin_version, creator.plugin_namespace]
        for creator in trt.get_plugin_registry().all_creators
        if creator.name in names[0]
    ]
    return {"names": names, "creators": creators}


def instantiated(trt: Any, *, operator: str, attributes: dict[str, Any], types: list[str]) -> dict[str, Any]:
    """A plugin of a node whose inputs have these types, made from its attributes and again from what a plan keeps."""
    creator = make_creator(trt, operator)
    fields, _arrays = write_fields(trt, attributes)
    plugin = creator.create_plugin("node", fields, trt.TensorRTPhase.BUILD)
    output_types = [kind.name for kind in plugin.get_output_data_types([getattr(trt.DataType, t) for t in types])]
    kept = read_fields(plugin.get_fields_to_serialize())
    restored = creator.create_plugin("node", plugin.get_fields_to_serialize(), trt.TensorRTPhase.RUNTIME)
    copy = restored.clone()
    return {
        "output_types": output_types,
        "kept": kept,
        "asked_for": [field.name for field in creator.field_names],
        "same": [p.operation == plugin.operation and p.precision == plugin.precision for p in (restored, copy)],
        "kinds": [isinstance(copy, base) for base in (trt.IPluginV3, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)],
        "identity": [copy.plugin_name, copy.plugin_version, copy.plugin_namespace, copy.num_outputs],
    }


def restored(trt: Any, *, operator: str, fields: dict[str, Any]) -> dict[str, Any]:
    creator = make_creator(trt, operator)
    collection, _arrays = write_fields(trt, fields)
    plugin = creator.create_plugin("node", collection, trt.TensorRTPhase.RUNTIME)
    return {"attributes": plugin.operation.attributes(), "precision": plugin.precision}


def formats(trt: Any, *, operator: str, attributes: dict[str, Any], types: list[str]) -> dict[str, Any]:
    """For each tensor of a node: the types it may have, given the others, and how often another layout was accepted."""
    fields, _arrays = write_fields(trt, attributes)
    plugin = make_creator(trt, operator).create_plugin("", fields, trt.TensorRTPhase.BUILD)
    accepted, packed = [], 0
    for position in range(len(types)):
        mine = []
        for kind in TYPES:
            tensors = [trt.DynamicPluginTensorDesc() for _ in types]
            for tensor, name in zip(tensors, [*types[:position], kind, *types[position + 1 :]], strict=True):
                tensor.desc = described(trt, [], name)
            inputs = len(types) - plugin.num_outputs
            if plugin.supports_format_combination(position, tensors, inputs):
                mine.append(kind)
            tensors[position].desc = described(trt, [], kind, "CHW4")
            packed += plugin.supports_format_combination(position, tensors, inputs)
        accepted.append(mine)
    return {"accepted": accepted, "packed": packed}


def described(trt: Any, dims: list[int], kind: str, layout: str = "LINEAR") -> Any:
    description = trt.PluginTensorDesc()
    description.dims = dims
    description.type, description.format = getattr(trt.DataType, kind), getattr(trt.TensorFormat, layout)
    return description


def enqueued(trt: Any, *, hidden_size: int, batches: list[int]) -> dict[str, Any]:
    """Arguments that a plugin passes to its kernel when a context runs; the kernel here records them."""
    calls: list[Any] = []

    class Recording:
        def __init__(self, precision: str) -> None:
            self.precision = precision

        def prepare(self, sizes: Any) -> None:
            calls.append(["prepare", self.precision, dict(sizes)])

        def workspace_bytes(self, sizes: Any) -> int:
            return 100 * int(sizes["B"])

        def launch(self, sizes: Any, pointers: Any, workspace: int, stream: int) -> None:
            calls.append(["launch", dict(sizes), list(pointers), workspace, stream])

    class RecordedOperation(GruOperation):
        def bind(self, precision: Any) -> Any:
            return Recording(precision)

    creator = make_creator(trt, "CustomGRUPlugin")
    original = creator.create_plugin(
        "", write_fields(trt, {"hidden_size": 1, "input_size": 1, "precision": 1})[0], None
    )
    plugin = type(original)(RecordedOperation(hidden_size, 1), "fp16").attach_to_context(None)
    for batch in batches:
        shapes = [[batch, 3 * hidden_size], [batch, hidden_size], [3 * hidden_size, hidden_size], [3 * hidden_size]]
        types = ["FLOAT", "FLOAT", "HALF", "FLOAT"]
        inputs = [described(trt, shape, kind) for shape, kind in zip(shapes, types, strict=True)]
        outputs = [described(trt, [batch, hidden_size], "FLOAT")]
        plugin.on_shape_change(inputs, outputs)
        plugin.enqueue(inputs, outputs, [11, 12, 13, 14], [15], 16, 17)
        plugin.clone().enqueue(inputs, outputs, [21, 22, 23, 24], [25], 26, 27)
    return {"calls": calls}


def built(trt: Any, *, onnx: str, profile: list[int] | None = None, targets: list[str]) -> dict[str, Any]:
    """A plan of a graph, and which of the plugins' methods TensorRT called on the way."""
    calls: Counter[str] = Counter()
    kept: list[Any] = []

    def noted(name: str) -> Any:
        method = getattr(PluginMethods, name)

        def wrapper(self: Any, *arguments: Any) -> Any:
            calls[name] += 1
            result = method(self, *arguments)
            if name == "get_fields_to_serialize":
                kept.append(read_fields(result))
            return result

        return method, wrapper

    spied = {
        name: noted(name) for name in ("clone", "get_fields_to_serialize", "configure_plugin", "get_workspace_size")
    }
    for name, (_, wrapper) in spied.items():
        setattr(PluginMethods, name, wrapper)
    try:
        return {**_build(trt, onnx, profile, targets), "calls": calls, "kept": kept[0] if kept else None}
    finally:
        for name, (method, _) in spied.items():
            setattr(PluginMethods, name, method)


def _build(trt: Any, onnx: str, profile: list[int] | None, targets: list[str]) -> dict[str, Any]:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx):
        return {"parsed": False, "errors": [str(parser.get_error(i)) for i in range(parser.num_errors)]}
    config = builder.create_builder_config()
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    if profile:
        shapes = builder.create_optimization_profile()
        for tensor in (network.get_input(i) for i in range(network.num_inputs)):
            dims = tuple(tensor.shape)
            if -1 in dims:
                shapes.set_shape(tensor.name, *(tuple(b if d < 0 else d for d in dims) for b in profile))
        config.add_optimization_profile(shapes)
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    plan = builder.build_serialized_network(network, config)
    return {
        "parsed": True,
        "outputs": {tensor.name: [list(tensor.shape), tensor.dtype.name] for tensor in outputs},
        "plan": None if plan is None else str(Path(onnx).with_suffix(".plan")),
        "bytes": 0 if plan is None else Path(onnx).with_suffix(".plan").write_bytes(plan),
    }


TASKS = {task.__name__: task for task in (registered, instantiated, restored, formats, enqueued, built)}


def main() -> None:
    """Reads ``{"module": …, "requests": [[task, arguments], …]}``; writes one answer a request to the file named."""
    request = json.loads(sys.stdin.read())
    trt = importlib.import_module(request["module"])
    messages = Messages()
    logging.getLogger("wavernn_trt.plugins").addHandler(messages)
    answers = []
    register(trt)
    for task, arguments in request["requests"]:
        del messages.texts[:]
        try:
            answer = TASKS[task](trt, **arguments)
        except ValueError as error:
            answer = {"error": str(error)}
        answers.append({**answer, "messages": list(messages.texts)})
    assert (PLUGIN_NAMESPACE, PLUGIN_VERSION) == ("wavernn_trt", "1")
    Path(request["answers"]).write_text(json.dumps({"version": trt.__version__, "answers": answers}))


if __name__ == "__main__":
    main()
