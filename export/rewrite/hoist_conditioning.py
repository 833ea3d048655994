"""Pass: moves every product of the conditioning from the step into the conditioner.

The products are then computed once per frame instead of once per sample. A step reads a weighted sum of rows along
time, and a product runs along columns, so the two commute. A bias moves with its product where a row is held; the
weights of other expansions need not add up to one, so there it stays in the step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from wavernn_trt.export.config import ColumnGroup
from wavernn_trt.export.networks import Networks, Row, replace_tensor


@dataclass(frozen=True)
class _Product:
    """One ``Gemm(conditioning, weight, bias)`` of the step."""

    output: gs.Variable
    weight: NDArray[np.float32]
    """[columns, n]"""
    bias: NDArray[np.float32]
    """[n]"""


def hoist_conditioning(networks: Networks) -> Networks:
    """Replaces each product of the step by a conditioning input, and appends the products to the conditioner."""
    step, conditioner = networks.step.copy(), networks.conditioner.copy()
    products = _take_products(step)
    edges = np.cumsum([0, *(group.columns for group in networks.groups)])
    held = [index for index, group in enumerate(networks.groups) if group.expansion == "held"]
    rows = []
    blocks: list[list[NDArray[np.float32]]] = [[] for _ in networks.groups]
    biases: list[list[NDArray[np.float32]]] = [[] for _ in networks.groups]
    for index, product in enumerate(products):
        width = product.bias.size
        parts = [product.weight[edges[g] : edges[g + 1]] for g in range(len(networks.groups))]
        used = tuple(g for g, part in enumerate(parts) if np.any(part) or g in held[:1])
        row = gs.Variable(f"row_{index}", np.float32, (step.inputs[0].shape[0], width))
        step.inputs.append(row)
        for g in used:
            blocks[g].append(parts[g])
            biases[g].append(product.bias if g in held[:1] else np.zeros_like(product.bias))
        if held:
            replace_tensor(step, product.output, row)
        else:
            bias = gs.Constant(f"{row.name}.bias", product.bias)
            step.nodes.append(gs.Node("Add", f"{row.name}.add", inputs=[row, bias], outputs=[product.output]))
        rows.append(Row(row.name, width, used))
    step.inputs = [tensor for tensor in step.inputs if tensor.name != "conditioning"]
    step.cleanup().toposort()
    weights = [np.concatenate(columns, axis=1) for columns in blocks]
    _append_products(conditioner, weights, [np.concatenate(bias) for bias in biases])
    groups = tuple(
        ColumnGroup(group.name, weight.shape[1], group.expansion)
        for group, weight in zip(networks.groups, weights, strict=True)
    )
    return dataclasses.replace(networks, conditioner=conditioner, step=step, groups=groups, rows=tuple(rows))


def _take_products(step: gs.Graph) -> list[_Product]:
    conditioning = step.tensors()["conditioning"]
    products = []
    for node in list(conditioning.outputs):
        if node.op != "Gemm" or node.inputs[0] is not conditioning:
            raise ValueError(f"node {node.name} ({node.op}) reads the conditioning; expected products only")
        products.append(_Product(node.outputs[0], node.inputs[1].values, node.inputs[2].values))
        node.outputs.clear()
        node.inputs.clear()
    return products


def _append_products(
    conditioner: gs.Graph, weights: list[NDArray[np.float32]], biases: list[NDArray[np.float32]]
) -> None:
    raw = conditioner.outputs[0]
    raw.name = "raw_conditioning"
    widths = [weight.shape[0] for weight in weights]
    parts = [raw]
    if len(weights) > 1:
        names = [f"raw_{index}" for index in range(len(weights))]
        split = gs.Constant("raw_widths", np.array(widths, np.int64))
        parts = conditioner.layer(op="Split", inputs=[raw, split], outputs=names, attrs={"axis": 2})
    outputs = []
    for index, (part, weight, bias) in enumerate(zip(parts, weights, biases, strict=True)):
        matrix = gs.Constant(f"hoisted_weight_{index}", weight)
        (product,) = conditioner.layer(op="MatMul", inputs=[part, matrix], outputs=[f"hoisted_{index}"])
        if np.any(bias):
            constant = gs.Constant(f"hoisted_bias_{index}", bias)
            (product,) = conditioner.layer(op="Add", inputs=[product, constant], outputs=[f"hoisted_sum_{index}"])
        outputs.append(product)
    if len(outputs) > 1:
        outputs = conditioner.layer(op="Concat", inputs=outputs, outputs=["hoisted"], attrs={"axis": 2})
    # After a GRU, torch exports the example's number of rows as static, although it depends on the mel.
    shape = (raw.shape[0], "rows", sum(weight.shape[1] for weight in weights))
    (result,) = outputs
    result.name, result.dtype, result.shape = "conditioning", np.dtype(np.float32), shape
    conditioner.outputs = [result]
    conditioner.cleanup().toposort()
