"""Numpy reference of the kernels: ``CustomGRUPlugin`` and ``WaveRNNSequencePlugin``.

`wavernn_trt.export.operators.SequenceShape` has the formulas of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.operators import SEQUENCE_OPERATOR, Place, Precision, SequenceShape
from wavernn_trt.plugins.operand_shapes import match_shapes
from wavernn_trt.plugins.precisions import WeightPrecision, operand_precision
from wavernn_trt.plugins.stored_weights import round_to, round_weight

MIXTURES = 10
"""Components of a logistic mixture; the logits are their weights, then their means, then their log-scales."""
LOG_SCALE_FLOOR = math.log(1e-14)
"""Lowest log-scale of a component of a logistic mixture (fatchord)."""
LOG_DEVIATION_FLOOR = -7.0
"""Lowest logarithm of the standard deviation of a Gaussian (Coqui)."""


def product(x: FloatArray, weight: FloatArray, precision: Precision) -> FloatArray:
    """Returns ``x @ weight.T`` as a tensor core computes it: operands in the precision, sums in float32.

    Args:
        x: [B, K]; is rounded here.
        weight: [N, K]; already rounded.
        precision: precision of both operands.

    Returns:
        float32 [B, N].
    """
    result: FloatArray = round_to(x, precision) @ weight.T
    return result


def gru_cell(
    gates: FloatArray,
    hidden: FloatArray,
    recurrent_weight: NDArray[Any],
    recurrent_bias: FloatArray,
    precision: Precision = "fp32",
) -> FloatArray:
    """Computes a GRU cell without its input product (Cho et al., 2014, in the form of PyTorch and cuDNN).

    Only the operands of the recurrent product are in the precision; sums, gates and state are float32.

    Args:
        gates: [B, 3H], input product of the reset, update and new gates, with its bias.
        hidden: [B, H].
        recurrent_weight: [3H, H], float32 or stored by `wavernn_trt.plugins.stored_weights.store`.
        recurrent_bias: [3H].
        precision: precision of the operands of the recurrent product.

    Returns:
        The new hidden state, float32 [B, H].
    """
    return gru_update(gates, product(hidden, round_to(recurrent_weight, precision), precision) + recurrent_bias, hidden)


def gru_update(gates: FloatArray, recurrent: FloatArray, hidden: FloatArray) -> FloatArray:
    """Computes the new state [B, H] in float32 from both products [B, 3H] and the state [B, H]."""
    input_reset, input_update, input_new = np.split(gates, 3, axis=1)
    hidden_reset, hidden_update, hidden_new = np.split(recurrent, 3, axis=1)
    reset = _sigmoid(input_reset + hidden_reset)
    update = _sigmoid(input_update + hidden_update)
    new = np.tanh(input_new + reset * hidden_new)
    state: FloatArray = (new + update * (hidden - new)).astype(np.float32)
    return state


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)  # does not overflow


def decode_sequence(
    shape: SequenceShape,
    inputs: Mapping[str, NDArray[Any]],
    precision: WeightPrecision = "fp32",
    forced: NDArray[Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Decodes a chunk of B streams and T steps; the sample of a step is fed back to the next step.

    Args:
        shape: the model.
        inputs: arrays by the names of ``shape.inputs()``. Weights are float32, ml_dtypes' bfloat16, or stored by
            `wavernn_trt.plugins.stored_weights.store`.
        precision: precision of the operands of every product. Sums, gates, states and sampling are float32.
        forced: [B, T], input of each step instead of ``previous`` and the samples (teacher forcing). Samples are still
            drawn and returned, but not fed back.

    Returns:
        The outputs of the node, ``samples`` [B, T], ``previous_out`` [B] and ``hidden_out`` [L, B, H]; and ``logits``,
        float32 [B, T, outputs], from which the samples were drawn.

    Raises:
        ValueError: an input is missing or has a wrong shape or type.
    """
    arrays = _check_inputs(shape, inputs, precision)
    batch, steps = arrays["uniforms"].shape[:2]
    if forced is not None and forced.shape != (batch, steps):
        raise ValueError(f"forced has shape {list(forced.shape)}, expected {[batch, steps]}: streams, steps")
    previous, hidden = arrays["previous"], list(arrays["hidden"])
    samples, all_logits = [], []
    for step in range(steps):
        fed = previous if forced is None else forced[:, step].astype(previous.dtype)
        logits = _step(shape, arrays, fed, hidden, _rows(shape, arrays, step), precision)
        sample, previous = _draw(shape, logits, arrays["uniforms"][:, step])
        samples.append(sample)
        all_logits.append(logits)
    return {
        "samples": np.stack(samples, axis=1),
        "previous_out": previous,
        "hidden_out": np.stack(hidden),
        "logits": np.stack(all_logits, axis=1),
    }


def _step(
    shape: SequenceShape,
    weights: Mapping[str, NDArray[Any]],
    previous: NDArray[Any],
    hidden: list[FloatArray],
    rows: Mapping[Place, FloatArray],
    precision: WeightPrecision,
) -> FloatArray:
    """Computes a step: replaces the states in ``hidden``, [B, H] of each layer, and returns the logits [B, outputs]."""

    def times(x: FloatArray, name: str) -> FloatArray:
        return product(x, weights[name], operand_precision(precision))

    def cell(layer: int, gates: FloatArray) -> FloatArray:
        state = hidden[layer]
        recurrent = times(state, f"recurrent_weight_{layer}") + weights[f"recurrent_bias_{layer}"]
        hidden[layer] = gru_update(gates, recurrent, state)
        return hidden[layer]

    table = weights["feedback"]
    fed_back = table[previous] if shape.label_feedback else previous[:, None] * table
    x = cell(0, fed_back + rows["gates_0"] + weights["gates_bias_0"])
    if shape.skip:
        x = x + previous[:, None] * weights["skip_column"] + rows["skip"] + weights["skip_bias"]
    if shape.layers == 2:
        state = cell(1, times(x, "input_weight_1") + rows["gates_1"] + weights["gates_bias_1"])
        x = state + x if shape.skip else state
    for i in range(len(shape.fc_sizes)):
        place: Place = "fc_0" if i == 0 else "fc_1"
        x = np.maximum(times(x, f"fc_weight_{i}") + rows[place] + weights[f"fc_bias_{i}"], 0)
    logits: FloatArray = times(x, "output_weight") + weights["output_bias"]
    return logits


def _rows(shape: SequenceShape, arrays: Mapping[str, NDArray[Any]], step: int) -> dict[Place, FloatArray]:
    """Returns the conditioning of each place at a step, [B, width]."""
    conditioning = arrays["conditioning"]  # [B, W, columns]
    batch = len(conditioning)
    starts = np.cumsum([0, *shape.group_columns])
    interpolated = 0
    expanded = np.zeros((batch, conditioning.shape[2]), np.float32)
    for group, held in enumerate(shape.group_held):
        columns = slice(starts[group], starts[group + 1])
        if held:
            expanded[:, columns] = conditioning[np.arange(batch), arrays["frame_index"][:, step], columns]
        else:
            weights = arrays["interpolation"][:, interpolated, step, None]  # [B, 1, W]
            expanded[:, columns] = (weights @ conditioning[:, :, columns])[:, 0]
            interpolated += 1
    rows: dict[Place, FloatArray] = {}
    for place, firsts in zip(shape.places, shape.first_columns(), strict=True):
        rows[place] = np.zeros((batch, shape.width(place)), np.float32)
        for first in firsts.values():
            rows[place] += expanded[:, first : first + shape.width(place)]
    return rows


def _draw(shape: SequenceShape, logits: FloatArray, uniforms: FloatArray) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draws from logits [B, outputs] with random numbers [B, U]; returns samples and feedback values, [B] each."""
    if shape.output == "categorical":
        label = _pick(logits, uniforms[:, 0])
        if shape.label_feedback:
            return label, label
        return label, (2 * label.astype(np.float32) / np.float32(shape.outputs - 1) - 1).astype(np.float32)
    if shape.output == "logistic_mixture":
        component = _pick(logits[:, :MIXTURES], uniforms[:, 0])
        stream = np.arange(len(logits))
        mean = logits[stream, MIXTURES + component]
        log_scale = np.maximum(logits[stream, 2 * MIXTURES + component], np.float32(LOG_SCALE_FLOOR))
    else:
        mean, log_scale = logits[:, 0], np.maximum(logits[:, 1], np.float32(LOG_DEVIATION_FLOOR))
    value = np.clip(mean + np.exp(log_scale) * uniforms[:, 1], -1, 1).astype(np.float32)
    return value, value


def _pick(logits: FloatArray, uniform: FloatArray) -> NDArray[np.int32]:
    """Returns the smallest class whose cumulative probability exceeds the random number: [B, C], [B] -> [B].

    The number is multiplied by the computed sum, because in float32 the cumulative probabilities can end below 1.
    """
    likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(likelihood, axis=1, dtype=np.float32)
    label: NDArray[np.int32] = np.argmax(cumulative > uniform[:, None] * cumulative[:, -1:], axis=1).astype(np.int32)
    return label


def _check_inputs(
    shape: SequenceShape, inputs: Mapping[str, NDArray[Any]], precision: WeightPrecision
) -> dict[str, NDArray[Any]]:
    """Checks shapes and types, and returns the inputs with weights rounded to the precision."""
    operands = shape.inputs()
    missing = [operand.name for operand in operands if operand.name not in inputs]
    if missing:
        raise ValueError(f"{SEQUENCE_OPERATOR}: the input {missing[0]} is missing")
    match_shapes(SEQUENCE_OPERATOR, operands, [inputs[operand.name].shape for operand in operands])
    arrays: dict[str, NDArray[Any]] = {}
    for operand in operands:
        array = inputs[operand.name]
        if operand.kind == "weight":
            array = round_weight(array, precision)
        elif array.dtype != operand.kind:
            raise ValueError(f"{SEQUENCE_OPERATOR}: {operand.name} is {array.dtype}, expected {operand.kind}")
        arrays[operand.name] = array
    return arrays
