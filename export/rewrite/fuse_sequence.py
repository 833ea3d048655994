"""Pass: replaces all steps of a chunk by one ``WaveRNNSequencePlugin`` node.

Every sum of the step is split into its terms (a row of conditioning, a bias, the previous sample's share, products,
other tensors). The terms must be those of `SequenceShape`; missing, additional or other terms are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.operators import (
    DOMAIN,
    GRU_OPERATOR,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    SEQUENCE_OPERATOR,
    Precision,
    SequenceShape,
    padded_weight,
)
from wavernn_trt.export.rewrite.decoder_interface import Dimension, new_decoder
from wavernn_trt.export.rewrite.fuse_gates import PatternError
from wavernn_trt.export.rewrite.precision import weight_constant
from wavernn_trt.export.sequence import FusedSequence


@dataclass
class _Terms:
    """A tensor of the step as a sum."""

    rows: list[str] = field(default_factory=list)
    bias: FloatArray | None = None
    table: FloatArray | None = None  # [classes, n], indexed by the previous label
    column: FloatArray | None = None  # [n], multiplied by the previous sample
    products: list[tuple[gs.Tensor, FloatArray]] = field(default_factory=list)  # each with its weight [n, k]
    others: list[gs.Tensor] = field(default_factory=list)

    def add_bias(self, values: FloatArray) -> None:
        """Adds a constant [n]."""
        values = np.asarray(values, np.float32)
        self.bias = values if self.bias is None else self.bias + values


def fuse_sequence(networks: Networks, model: ModelConfig) -> FusedSequence:
    """Returns the shape and weights of a step with fused gates.

    Args:
        networks: from `wavernn_trt.export.rewrite.fuse_gates.fuse_gates`.
        model: its configuration.

    Raises:
        PatternError: the step does not have the structure of `SequenceShape`; names the tensor.
    """
    step = networks.step
    tensors = step.tensors()
    cells = [node for node in step.nodes if node.op == GRU_OPERATOR]
    if len(cells) != model.layers:
        raise PatternError(f"found {len(cells)} {GRU_OPERATOR} nodes, expected {model.layers}")
    states = [cell.outputs[0] for cell in cells]
    hidden, wide = model.hidden_size, 3 * model.hidden_size
    weights: dict[str, FloatArray] = {}
    rows: list[list[str]] = []  # of each place

    def take_rest(terms: _Terms, tensor: gs.Tensor, size: int) -> FloatArray:
        rows.append(terms.rows)
        return _only_bias(terms, tensor, size)

    gates = _terms(cells[0].inputs[0])
    weights["feedback"] = _take_feedback(gates, cells[0].inputs[0], model)
    weights["gates_bias_0"] = take_rest(gates, cells[0].inputs[0], wide)
    for layer, cell in enumerate(cells):
        weights[f"recurrent_weight_{layer}"], weights[f"recurrent_bias_{layer}"] = (
            np.asarray(constant.values, np.float32) for constant in cell.inputs[2:4]
        )
    around = next((node.outputs[0] for node in states[0].outputs if node.op == "Add"), None)
    if around is not None:
        terms = _terms(around)
        terms.others = [tensor for tensor in terms.others if tensor is not states[0]]
        weights["skip_column"] = _take_column(terms, around)
        weights["skip_bias"] = take_rest(terms, around, hidden)
    if model.layers == 2:
        gates = _terms(cells[1].inputs[0])
        source, weights["input_weight_1"] = _take_product(gates, cells[1].inputs[0])
        _expect_features(source, states[:1], around is not None)
        weights["gates_bias_1"] = take_rest(gates, cells[1].inputs[0], wide)

    # The layers after the GRUs, from the logits backwards.
    terms = _terms(tensors["logits"])
    source, weights["output_weight"] = _take_product(terms, tensors["logits"])
    weights["output_bias"] = _only_bias(terms, tensors["logits"], model.outputs)
    layers = []
    while source.inputs and source.inputs[0].op == "Relu":
        inside = source.inputs[0].inputs[0]
        terms = _terms(inside)
        source, weight = _take_product(terms, inside)
        layers.append((terms, inside, weight))
    _expect_features(source, states, around is not None)
    for i, (terms, inside, weight) in enumerate(reversed(layers)):
        weights[f"fc_weight_{i}"] = weight
        weights[f"fc_bias_{i}"] = take_rest(terms, inside, len(weight))
    return FusedSequence(_shape(networks, model, around is not None, rows), weights)


def refuse_amplitudes(model: ModelConfig) -> None:
    """Checks that a model is not fed with amplitudes: the CUDA kernels feed classes' companded values back.

    Raises:
        PatternError: it is.
    """
    if model.amplitude_feedback:
        raise PatternError(
            f"{SEQUENCE_OPERATOR} feeds companded values back, this model needs amplitudes; "
            "build it with --form cell, or run it on the CPU"
        )


def fuse_if_possible(networks: Networks, model: ModelConfig) -> FusedSequence | None:
    """Returns the same, or ``None`` for a step that the kernels of ``plugins/`` do not compute."""
    try:
        return fuse_sequence(networks, model)
    except PatternError:
        return None


def sequence_decoder(
    fused: FusedSequence,
    networks: Networks,
    model: ModelConfig,
    *,
    steps: int,
    batch: Dimension,
    window: int,
    precision: Precision = "fp32",
) -> gs.Graph:
    """Returns the decoder as one node, with the inputs and outputs of the unrolled one.

    Args:
        fused: from `fuse_sequence`.
        networks: the networks given to it.
        model: its configuration.
        steps: steps of a chunk.
        batch: streams, or the name of a dynamic dimension.
        window: rows of conditioning that a chunk reads.
        precision: type of the weights.
    """
    graph = new_decoder("decoder", model, networks, batch, steps, window)
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    operands: list[gs.Tensor] = [inputs[operand.name] for operand in fused.shape.chunk_inputs()]
    for operand in fused.shape.weight_inputs():
        values = fused.weights[operand.name]
        assert values.shape == operand.shape, operand.name
        if operand.kind == "weight":
            values = np.pad(values, ((0, 0), (0, int(padded_weight(operand).shape[1]) - values.shape[1])))
        operands.append(weight_constant(operand.name, values, precision if operand.kind == "weight" else "fp32"))
    sizes = {"B": batch, "T": steps, "W": window}
    outputs = [
        gs.Variable(operand.name, np.dtype(operand.kind), tuple(sizes.get(str(d), d) for d in operand.shape))
        for operand in fused.shape.outputs_of_node()
    ]
    attributes = {
        **fused.shape.to_attributes(),
        "plugin_version": PLUGIN_VERSION,
        "plugin_namespace": PLUGIN_NAMESPACE,
    }
    graph.nodes.append(gs.Node(SEQUENCE_OPERATOR, "sequence", attributes, operands, outputs, domain=DOMAIN))
    graph.outputs = outputs
    return graph


def _shape(networks: Networks, model: ModelConfig, skip: bool, rows: list[list[str]]) -> SequenceShape:
    groups = {row.name: row.groups for row in networks.rows}
    order = [name for names in rows for name in names]
    if order != [row.name for row in networks.rows]:
        raise PatternError(f"conditioning goes in as {', '.join(order)}, expected {', '.join(groups)}")
    return SequenceShape(
        hidden_size=model.hidden_size,
        layers=model.layers,
        fc_sizes=model.fc_sizes,
        outputs=model.outputs,
        output=model.output,
        label_feedback=model.label_feedback,
        skip=skip,
        group_columns=tuple(group.columns for group in networks.groups),
        group_held=tuple(group.expansion == "held" for group in networks.groups),
        place_groups=tuple(groups[names[0]] if names else () for names in rows),
    )


def _terms(tensor: gs.Tensor) -> _Terms:
    """Returns a tensor as a sum of terms that are not sums."""
    found = _Terms()
    waiting = [tensor]
    while waiting:
        term = waiting.pop()
        node = term.inputs[0] if term.inputs else None
        if isinstance(term, gs.Constant):
            found.add_bias(term.values)
        elif node is None and term.name.startswith("row_"):
            found.rows.append(term.name)
        elif node is None:
            found.others.append(term)
        elif node.op == "Add":
            waiting += node.inputs
        elif node.op == "Gather" and isinstance(node.inputs[0], gs.Constant) and node.inputs[1].name == "previous":
            found.table = np.asarray(node.inputs[0].values, np.float32)
        elif node.op == "Mul" and isinstance(node.inputs[1], gs.Constant) and _is_previous(node.inputs[0]):
            found.column = np.asarray(node.inputs[1].values, np.float32)[0]
        elif node.op == "Gemm" and isinstance(node.inputs[1], gs.Constant):
            weight = np.asarray(node.inputs[1].values, np.float32)
            weight = weight if node.attrs.get("transB") else weight.T
            found.products.append((node.inputs[0], np.ascontiguousarray(weight)))
            if len(node.inputs) > 2:
                found.add_bias(node.inputs[2].values)
        else:
            found.others.append(term)
    return found


def _is_previous(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == "Unsqueeze" and tensor.inputs[0].inputs[0].name == "previous"


def _take_feedback(terms: _Terms, tensor: gs.Tensor, model: ModelConfig) -> FloatArray:
    if not model.label_feedback:
        return _take_column(terms, tensor)[None]
    if terms.table is None:
        raise PatternError(f"tensor {tensor.name} does not take a row for the previous label, as the family does")
    table, terms.table = terms.table, None
    return table


def _take_column(terms: _Terms, tensor: gs.Tensor) -> FloatArray:
    if terms.column is None:
        raise PatternError(f"tensor {tensor.name} does not take the previous sample's value, as the family does")
    column, terms.column = terms.column, None
    return column


def _take_product(terms: _Terms, tensor: gs.Tensor) -> tuple[gs.Tensor, FloatArray]:
    if len(terms.products) != 1:
        raise PatternError(f"tensor {tensor.name} sums {len(terms.products)} products, expected one")
    return terms.products.pop()


def _expect_features(tensor: gs.Tensor, states: list[gs.Tensor], skip: bool) -> None:
    """Checks the input of the layers after the GRUs: the last state, or with a skip the input layer plus all states."""
    if not skip and tensor is states[-1]:
        return
    terms = _terms(tensor)
    read = {other.name for other in terms.others}
    if not skip or read != {state.name for state in states} or terms.products or terms.column is None:
        raise PatternError(f"tensor {tensor.name} is read behind the GRUs; expected {states[-1].name} there")


def _only_bias(terms: _Terms, tensor: gs.Tensor, size: int) -> FloatArray:
    """Returns the bias of a sum after checking that only it and one row of conditioning are left."""
    left = [name for name in ("table", "column") if getattr(terms, name) is not None]
    left += [*(other.name for other in terms.others), *(source.name for source, _ in terms.products), *terms.rows[1:]]
    if left:
        raise PatternError(f"tensor {tensor.name} also sums {left[0]}, which no sequence kernel computes")
    return np.zeros(size, np.float32) if terms.bias is None else terms.bias.reshape(size)
