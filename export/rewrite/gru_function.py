"""The CustomGRUPlugin operator as an ONNX function.

One node is one GRU cell after its input product:

    (gates [B, 3H], hidden [B, H], recurrent_weight [3H, H], recurrent_bias [3H]) -> next_hidden [B, H]

with gates in PyTorch's order (reset, update, new). TensorRT takes the node as a plugin, looked up by operator type,
``plugin_version`` and ``plugin_namespace``; ONNX Runtime, which ignores those attributes, runs the function.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from wavernn_trt.export.operators import DOMAIN, GRU_OPERATOR, Precision
from wavernn_trt.export.rewrite.precision import ONNX_TYPES

ATTRIBUTES = ("hidden_size", "input_size", "plugin_version", "plugin_namespace")


def gru_function(opset: int, precision: Precision = "fp32") -> onnx.FunctionProto:
    """Returns the operator as standard operators of ``opset``.

    In a lower precision both operands of the product are rounded to it, and the sum is float32.
    """
    node = helper.make_node
    hidden, weight = "hidden", "recurrent_weight"
    nodes = []
    if precision != "fp32":
        nodes = [
            node("Cast", [hidden], ["low_hidden"], to=ONNX_TYPES[precision]),
            node("Cast", ["low_hidden"], ["rounded_hidden"], to=TensorProto.FLOAT),
            node("Cast", [weight], ["raised_weight"], to=TensorProto.FLOAT),
        ]
        hidden, weight = "rounded_hidden", "raised_weight"
    nodes += [
        node("Gemm", [hidden, weight, "recurrent_bias"], ["recurrent"], transB=1),
        node("Split", ["gates"], ["input_reset", "input_update", "input_new"], axis=1, num_outputs=3),
        node("Split", ["recurrent"], ["hidden_reset", "hidden_update", "hidden_new"], axis=1, num_outputs=3),
        node("Add", ["input_reset", "hidden_reset"], ["reset_sum"]),
        node("Sigmoid", ["reset_sum"], ["reset"]),
        node("Add", ["input_update", "hidden_update"], ["update_sum"]),
        node("Sigmoid", ["update_sum"], ["update"]),
        node("Mul", ["reset", "hidden_new"], ["reset_new"]),
        node("Add", ["input_new", "reset_new"], ["new_sum"]),
        node("Tanh", ["new_sum"], ["new"]),
        node("Sub", ["hidden", "new"], ["difference"]),
        node("Mul", ["update", "difference"], ["kept"]),
        node("Add", ["new", "kept"], ["next_hidden"]),
    ]
    return helper.make_function(
        DOMAIN,
        GRU_OPERATOR,
        ["gates", "hidden", "recurrent_weight", "recurrent_bias"],
        ["next_hidden"],
        nodes,
        [helper.make_opsetid("", opset)],
        list(ATTRIBUTES),
    )
