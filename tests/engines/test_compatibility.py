"""The compatibility report names every node that TensorRT would refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the report is about ONNX graphs")

from onnx import TensorProto, helper, numpy_helper

from wavernn_trt.engines.compatibility import CompatibilityReport, compatibility_report


def report(
    node: Any, shape: tuple[Any, ...] = (2, 4, 32), kind: int = TensorProto.FLOAT, **constants: Any
) -> CompatibilityReport:
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    if "index" in node.input and "index" not in constants:
        inputs.append(helper.make_tensor_value_info("index", TensorProto.INT64, (2,)))
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("wavernn_trt", 1)]
    return compatibility_report(helper.make_model(graph, opset_imports=opsets), static=True)


def kernel(length: int) -> Any:
    return np.zeros((3, 4, length), np.float32)


def test_a_graph_that_tensorrt_takes_has_no_violation() -> None:
    found = report(helper.make_node("Conv", ["x", "w"], ["y"], name="conv"), w=kernel(15))
    assert found.violations == ()
    assert [(row.operator, row.count, row.layer) for row in found.operators] == [("Conv", 1, "Convolution")]


VIOLATIONS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "long kernel": (helper.make_node("Conv", ["x", "w"], ["y"], name="n"), {"w": kernel(16)}, "16 long"),
    "half gates": (
        helper.make_node("Sigmoid", ["x"], ["y"], name="n"),
        {"kind": TensorProto.FLOAT16},
        "computes in FLOAT16",
    ),
    "doubles": (helper.make_node("Relu", ["x"], ["y"], name="n"), {"kind": TensorProto.DOUBLE}, "DOUBLE"),
    "named size": (helper.make_node("Relu", ["x"], ["y"], name="n"), {"shape": ("batch", 4)}, "not static"),
    "computed table": (helper.make_node("Gather", ["x", "index"], ["y"], name="n"), {}, "not constant"),
    "random numbers": (helper.make_node("Multinomial", ["x"], ["y"], name="n"), {"shape": (2, 4)}, "no layer for it"),
    "computed scale": (
        helper.make_node("QuantizeLinear", ["x", "index", "zero"], ["y"], name="n"),
        {"zero": np.zeros((), np.int8)},
        "its scale is not constant",
    ),
    "other zero point": (
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="n"),
        {"scale": np.float32(0.1).reshape(()), "zero": np.ones((), np.int8)},
        "zero point is not a constant zero",
    ),
    "unsigned codes": (
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="n"),
        {"scale": np.float32(0.1).reshape(()), "zero": np.zeros((), np.uint8)},
        "its codes are UINT8, expected INT8 or FLOAT8E4M3FN",
    ),
    "scales of activations": (
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="n", axis=2),
        {"scale": np.ones(32, np.float32), "zero": np.zeros(32, np.int8)},
        "only weights may have that",
    ),
    "unknown operator": (helper.make_node("Det", ["x"], ["y"], name="n"), {"shape": (2, 4, 4)}, "no TensorRT layer"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_violation_names_its_node(name: str) -> None:
    node, arguments, reason = VIOLATIONS[name]
    found = [violation for violation in report(node, **arguments).violations if violation.node == "n"]
    assert any(reason in violation.reason for violation in found), found
    assert {violation.operator for violation in found} == {node.op_type}


def test_products_in_eight_bits_have_no_violation() -> None:
    weight = {"codes": np.ones((32, 8), np.int8), "scales": np.ones(8, np.float32)}
    node = helper.make_node("DequantizeLinear", ["codes", "scales"], ["y"], name="weight", axis=1)
    found = report(node, **weight)
    assert found.violations == ()
    assert [(row.operator, row.layer) for row in found.operators] == [("DequantizeLinear", "Dequantize")]


def test_control_flow_is_a_violation() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["a"], ["c"])],
        "body",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, (4, 32))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, 32)) for name in ("c",)],
    )
    found = report(helper.make_node("Scan", ["x"], ["y"], name="loop", num_scan_inputs=1, body=body))
    assert [(v.node, v.operator) for v in found.violations] == [("loop", "Scan")]
    assert "control flow" in found.violations[0].reason


def test_a_plugin_node_needs_its_attributes() -> None:
    node = helper.make_node("CustomGRUPlugin", ["x"], ["y"], name="cell", domain="wavernn_trt", hidden_size=4)
    reasons = [violation.reason for violation in report(node).violations if violation.node == "cell"]
    assert any("lacks the attribute input_size" in reason for reason in reasons)
    node = helper.make_node("MaterialisePlugin", ["x"], ["y"], name="rows", domain="wavernn_trt", plugin_version="1")
    reasons = [violation.reason for violation in report(node).violations if violation.node == "rows"]
    assert any("lacks the attribute plugin_namespace" in reason for reason in reasons)
