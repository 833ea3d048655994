"""Converts a model directory's networks to the graphs that TensorRT parses, unrolled or fused for an engine's sizes."""

from __future__ import annotations

import re

import onnx
import onnx_graphsurgeon as gs

from wavernn_trt.engines.compatibility import compatibility_report
from wavernn_trt.engines.spec import EngineSpec, Form, Role
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.model_directory import CONDITIONER, ModelDirectory, window_rows
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.quantization import product_names
from wavernn_trt.export.rewrite.decoder_interface import Dimension
from wavernn_trt.export.rewrite.explicit_quantization import quantize_products, quantized_layers
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence, refuse_amplitudes, sequence_decoder
from wavernn_trt.export.rewrite.materialise_rows import materialise_rows
from wavernn_trt.export.rewrite.narrow_slices import narrow_slices
from wavernn_trt.export.rewrite.precision import lower_precision
from wavernn_trt.export.rewrite.products import find_products
from wavernn_trt.export.rewrite.unroll import unroll


class RefusedGraphError(ValueError):
    """A graph has nodes that TensorRT would refuse: names them with reasons."""


def engine_graph(directory: ModelDirectory, spec: EngineSpec, role: Role) -> onnx.ModelProto:
    """Returns the graph of one of an engine's plans.

    Args:
        directory: a verified model directory.
        spec: the engine; a batch that is a range becomes the dynamic dimension ``batch``.
        role: which plan.

    Raises:
        ModelDirectoryError: the directory's graphs are not this exporter's.
        PatternError: the model's step cannot be rewritten to the form.
        PrecisionError: weights that the precision cannot hold.
        RefusedGraphError: the graph has nodes that TensorRT would refuse.
    """
    if role == "conditioner":
        graph = onnx.load(str(directory.file(CONDITIONER)))
        _make_single(graph)
    else:
        graph = to_model(_decoder(directory, spec))
    refuse(graph, static=role == "decoder" and spec.batch.static)
    return graph


def decoder_window(directory: ModelDirectory, spec: EngineSpec) -> int:
    """Returns the rows of conditioning that a chunk of the engine's steps reads."""
    return window_rows(directory.model, directory.audio, spec.steps)


def product_weights(directory: ModelDirectory, form: Form | None = None) -> dict[str, str]:
    """Returns the products' names by the prefix of their weight's name in a graph.

    Args:
        directory: a verified model directory.
        form: the engine's form; ``None`` is the directory's own decoder.

    Raises:
        ModelDirectoryError: the directory's graphs are not this exporter's.
        PatternError: the step is not this exporter's.
    """
    if form == "sequence":
        names = product_names(directory.model)
        return {"output_weight" if name == "output" else name.replace("_", "_weight_"): name for name in names}
    products = find_products(read_networks(directory).step, directory.model)
    # The suffix is that of `rounded_products` for rounded values.
    return {re.sub(r"\.\w+_values$", "", node.inputs[1].name): name for name, node in products.items()}


def refuse(graph: onnx.ModelProto, *, static: bool) -> None:
    """Raises a `RefusedGraphError` for a graph with nodes that TensorRT would refuse."""
    violations = compatibility_report(graph, static=static).violations
    if violations:
        lines = [f"{one.node} ({one.operator}): {one.reason}" for one in violations[:5]]
        more = len(violations) - len(lines)
        raise RefusedGraphError(
            f"TensorRT would refuse {len(violations)} nodes of this graph: {'; '.join(lines)}"
            + (f"; and {more} more" if more else "")
        )


def _decoder(directory: ModelDirectory, spec: EngineSpec) -> gs.Graph:
    model = directory.model
    batch: Dimension = spec.batch.maximum if spec.batch.static else "batch"
    window = decoder_window(directory, spec)
    if spec.form == "sequence":
        refuse_amplitudes(model)
        networks = fuse_gates(read_networks(directory), model.input_sizes)
        fused = fuse_sequence(networks, model)
        return sequence_decoder(
            fused, networks, model, steps=spec.steps, batch=batch, window=window, precision=spec.precision
        )
    lowered = lower_precision(narrow_slices(_step_of_products(directory, spec.precision)), spec.precision)
    unrolled = unroll(lowered, model, steps=spec.steps, batch=batch, window=window)
    # Rows of a single group are gathered without a copy, which would only take memory (univoc 896: 4 % more).
    return materialise_rows(unrolled) if len(model.groups) > 1 else unrolled


def _step_of_products(directory: ModelDirectory, precision: Precision) -> Networks:
    """Returns the step with fused gates, except for cells whose quantised product TensorRT must see."""
    networks, model, quantization = read_networks(directory), directory.model, directory.quantization
    if quantization is None:
        return fuse_gates(networks, model.input_sizes)
    quantized = quantize_products(networks, model, quantization, precision)
    return fuse_gates(quantized, model.input_sizes, unfused=quantized_layers(quantization))


def _make_single(conditioner: onnx.ModelProto) -> None:
    """Sets the batch to one mel; the number of frames remains dynamic."""
    (mel,), (conditioning,) = conditioner.graph.input, conditioner.graph.output
    for value in (mel, conditioning):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    conditioning.type.tensor_type.shape.dim[1].dim_param = "rows"
