"""Random inputs of decoder graphs, and what ONNX Runtime and ONNX's reference evaluator compute from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_reference import OPERATORS

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.model_directory import ModelDirectory, window_rows

Values = dict[str, NDArray[Any]]


def decoder_inputs(model: ModelConfig, *, steps: int, batch: int, window: int, seed: int = 5) -> Values:
    """Random inputs of one chunk of a decoder, by name."""
    random = np.random.default_rng(seed)
    values: Values = {
        "conditioning": random.standard_normal((batch, window, model.columns)).astype(np.float32),
        "uniforms": random.uniform(0.01, 0.99, (batch, steps, model.uniforms)).astype(np.float32),
        "previous": np.full(batch, model.first_previous, np.int32 if model.label_feedback else np.float32),
        "hidden": random.uniform(-1, 1, (model.layers, batch, model.hidden_size)).astype(np.float32),
    }
    if any(group.expansion == "held" for group in model.groups):
        values["frame_index"] = random.integers(0, window, (batch, steps), dtype=np.int32)
    if model.interpolated:
        weights = random.random((batch, model.interpolated, steps, window))
        values["interpolation"] = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return values


def chunk_of(directory: ModelDirectory, *, steps: int, batch: int) -> Values:
    """Random inputs of a chunk of a model directory's decoder, with a window as the runtime cuts it."""
    window = window_rows(directory.model, directory.audio, steps)
    return decoder_inputs(directory.model, steps=steps, batch=batch, window=window)


def run_graph(source: Any, values: Values, *, optimise: bool = True) -> Values:
    """Runs a graph, or the file of that name, in ONNX Runtime; values that are no inputs of it are left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = source if isinstance(source, str) else source.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {each.name: values[each.name] for each in session.get_inputs()})
    return dict(zip(names, found, strict=True))


def evaluate_graph(graph: Any, values: Values, operators: tuple[Any, ...] = OPERATORS) -> Values:
    """Runs a graph in ONNX's reference evaluator, its operators by the numpy references."""
    names = [output.name for output in graph.graph.output]
    inputs = {each.name: values[each.name] for each in graph.graph.input}
    return dict(zip(names, ReferenceEvaluator(graph, new_ops=list(operators)).run(names, inputs), strict=True))


def assert_close(found: Values, expected: Values, atol: float = 1e-5) -> None:
    """Fails where an expected value is missing or differs by more than ``atol``."""
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)
