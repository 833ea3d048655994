"""Writes graphs as ONNX files that share one file of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from wavernn_trt.export.networks import IR_VERSION, OPSET
from wavernn_trt.export.operators import DOMAIN, GRU_OPERATOR, MATERIALISE_OPERATOR
from wavernn_trt.export.rewrite.gru_function import gru_function
from wavernn_trt.export.rewrite.materialise_rows import materialise_function
from wavernn_trt.export.rewrite.precision import ONNX_TYPES
from wavernn_trt.export.rewrite.rounded_products import ORT_DOMAIN

_EXTERNAL_FROM_BYTES = 1024
_ALIGNMENT = 64
_OPSET_OF_FP8 = 19
"""The first operator set that quantises to fp8."""


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """Returns a graph as an ONNX model, with the functions of this project's operators that it uses."""
    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    del model.graph.value_info[:]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                del attribute.g.value_info[:]
    del model.opset_import[:]
    opset = _opset(model)
    model.opset_import.append(helper.make_opsetid("", opset))
    if any(node.domain == ORT_DOMAIN for node in _nodes(model.graph)):
        model.opset_import.append(helper.make_opsetid(ORT_DOMAIN, 1))
    if any(node.domain == DOMAIN for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    cell = next((node for node in model.graph.node if node.op_type == GRU_OPERATOR), None)
    if cell is not None:
        types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        precisions = {onnx_type: precision for precision, onnx_type in ONNX_TYPES.items()}
        model.functions.append(gru_function(opset, precisions[types[cell.input[2]]]))
    if any(node.op_type == MATERIALISE_OPERATOR for node in model.graph.node):
        model.functions.append(materialise_function(opset))
    model.ir_version = IR_VERSION
    model.producer_name = "wavernn-trt"
    return model


def write_models(folder: Path, models: Mapping[str, onnx.ModelProto], weights: str) -> None:
    """Writes ONNX files that share their larger initializers in the file ``weights`` beside them.

    Args:
        folder: an existing folder.
        models: by file name; initializers with the same name must have the same values.
        weights: name of the weights' file.

    Raises:
        ValueError: two models disagree on an initializer.
    """
    places: dict[str, tuple[int, bytes]] = {}
    with (folder / weights).open("wb") as file:
        for name, model in models.items():
            for tensor in _initializers(model.graph):
                raw = tensor.raw_data
                if len(raw) < _EXTERNAL_FROM_BYTES:
                    continue
                if tensor.name not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    places[tensor.name] = (file.tell(), raw)
                    file.write(raw)
                offset, known = places[tensor.name]
                if raw != known:
                    raise ValueError(f"{name}: initializer {tensor.name} differs from that of another file")
                onnx.external_data_helper.set_external_data(tensor, weights, offset, len(raw))
                tensor.ClearField("raw_data")
    for name, model in models.items():
        (folder / name).write_bytes(model.SerializeToString())


def _opset(model: onnx.ModelProto) -> int:
    fp8 = TensorProto.FLOAT8E4M3FN
    constants = any(tensor.data_type == fp8 for tensor in _initializers(model.graph))
    casts = any(node.op_type == "Cast" and node.attribute[0].i == fp8 for node in _nodes(model.graph))
    return _OPSET_OF_FP8 if constants or casts else OPSET


def _initializers(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    return [tensor for part in _graphs(graph) for tensor in part.initializer]


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for part in _graphs(graph) for node in part.node]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yields a graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
