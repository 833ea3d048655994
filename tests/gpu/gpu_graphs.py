"""Builds small ONNX graphs with the plugins: a matrix product and a GRU cell, and a chunk as one node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from kernel_cases import SequenceCase
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wavernn_trt import runtime
from wavernn_trt.export.operators import DOMAIN, GRU_OPERATOR, PLUGIN_NAMESPACE, PLUGIN_VERSION, SEQUENCE_OPERATOR
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.scripts.gpu.cases import Arrays

BATCH, WIDTH, UNITS = 3, 12, 40
_SHIPPED = Path(runtime.__file__).parent / "voices" / "heart-lj" / "decoder.onnx"
_PLUGIN: dict[str, Any] = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}


def cell_graph() -> tuple[onnx.ModelProto, Arrays]:
    """Returns a matrix product followed by one cell, which ONNX Runtime runs too, and its inputs."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.uniform(-0.5, 0.5, shape).astype(np.float32), name)

    inputs = {
        "x": random.standard_normal((BATCH, WIDTH)).astype(np.float32),
        "hidden": random.uniform(-1, 1, (BATCH, UNITS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "input_weight"], ["gates"]),
        helper.make_node(
            GRU_OPERATOR,
            ["gates", "hidden", "recurrent_weight", "recurrent_bias"],
            ["next_hidden"],
            domain=DOMAIN,
            hidden_size=UNITS,
            input_size=WIDTH,
            **_PLUGIN,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "cell",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("next_hidden", TensorProto.FLOAT, (BATCH, UNITS))],
        [
            weights("input_weight", WIDTH, 3 * UNITS),
            weights("recurrent_weight", 3 * UNITS, UNITS),
            weights("recurrent_bias", 3 * UNITS),
        ],
    )
    return _model(graph), inputs


def sequence_graph(case: SequenceCase, inputs: Arrays) -> tuple[onnx.ModelProto, Arrays]:
    """Returns a chunk as one node in fp32 with its weights as constants, and the remaining inputs."""
    operands = case.shape.inputs()
    chunk = [operand.name for operand in case.shape.chunk_inputs()]
    types = {"int32": TensorProto.INT32}
    node = helper.make_node(
        SEQUENCE_OPERATOR,
        [operand.name for operand in operands],
        [operand.name for operand in case.shape.outputs_of_node()],
        domain=DOMAIN,
        **_PLUGIN,
    )
    # One attribute is named "outputs", like an argument of make_node.
    node.attribute.extend(helper.make_attribute(name, value) for name, value in case.shape.to_attributes().items())
    graph = helper.make_graph(
        [node],
        "sequence",
        [
            helper.make_tensor_value_info(
                operand.name, types.get(operand.kind, TensorProto.FLOAT), inputs[operand.name].shape
            )
            for operand in case.shape.chunk_inputs()
        ],
        [
            helper.make_tensor_value_info(name, types.get(str(value.dtype), TensorProto.FLOAT), value.shape)
            for name, value in case.poisoned_outputs().items()
        ],
        [
            numpy_helper.from_array(value, operand.name)
            for operand, value in zip(operands, store_operands(operands, inputs, "fp32")[0], strict=True)
            if operand.name not in chunk
        ],
    )
    return _model(graph), {name: inputs[name] for name in chunk}


def onnx_runtime(graph: bytes, inputs: Arrays) -> NDArray[Any]:
    """Returns the only output of a graph in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, inputs)
    return np.asarray(result)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Returns a model with the versions and the function (the cell in standard operators) of the shipped decoder."""
    # onnx-graphsurgeon would be needed to build the function.
    shipped = onnx.load(str(_SHIPPED), load_external_data=False)
    return helper.make_model(
        graph, functions=shipped.functions, opset_imports=shipped.opset_import, ir_version=shipped.ir_version
    )
