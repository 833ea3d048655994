"""The native decoder's arithmetic in numpy, operation by operation: its results are equal bits.

Only exp, sigmoid and tanh are the library's own; tests/plugins/native/test_native_functions.py checks those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.grids import encode, encode_weight
from wavernn_trt.export.operators import NativePrecision, Place, SequenceShape
from wavernn_trt.plugins.arguments import BIASES, MATRICES
from wavernn_trt.plugins.cpu.library import NativeLibrary
from wavernn_trt.plugins.reference import LOG_DEVIATION_FLOOR, LOG_SCALE_FLOOR, MIXTURES
from wavernn_trt.plugins.stored_weights import round_to

_BIASES = dict(zip(MATRICES, BIASES, strict=True))
_PLACE_BIASES = {"gates_0": "gates_bias_0", "skip": "skip_bias", "gates_1": "gates_bias_1"}


def fma(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> FloatArray:
    """Returns a * b + c, rounded once: the sum in float64, whose product is exact, is rounded to odd."""
    product, c = np.broadcast_arrays(np.asarray(a, np.float64) * b, np.asarray(c, np.float64))
    total = product + c
    rest = total - product
    error = (product - (total - rest)) + (c - rest)
    towards = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    inexact_and_even = (error != 0) & (total.view(np.int64) & 1 == 0)
    rounded: FloatArray = np.where(inexact_and_even, towards, total).astype(np.float32)
    return rounded


def apply(library: NativeLibrary, path: str, function: str, x: FloatArray) -> FloatArray:
    """Applies ``exp``, ``sigmoid`` or ``tanh`` of a path."""
    padded = np.zeros(-(-x.size // 16) * 16, np.float32)
    padded[: x.size] = x.ravel()
    index = ("exp", "sigmoid", "tanh").index(function)
    call = library.functions.wavernn_native_apply
    assert call(path.encode(), index, padded.ctypes.data, padded.ctypes.data, padded.size) == 0
    return padded[: x.size].reshape(x.shape)


@dataclass(frozen=True)
class ExactDecoder:
    """A model; see `wavernn_trt.plugins.cpu.decoder.NativeDecoder` for the fields."""

    library: NativeLibrary
    shape: SequenceShape
    weights: Mapping[str, NDArray[Any]]
    fed_back: FloatArray | None
    precisions: Mapping[str, NativePrecision]
    activation_scales: Mapping[str, float] = field(default_factory=dict)
    four_sums: bool = False
    """Whether matrices are stored in blocks of 1 x 4 weights: in float32, a row's sum in four parts."""

    def decode(self, inputs: Mapping[str, NDArray[Any]], forced: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
        """Decodes a chunk."""
        previous, hidden = inputs["previous"], list(inputs["hidden"])
        samples, all_logits = [], []
        for step in range(inputs["uniforms"].shape[1]):
            fed = previous if forced is None else forced[:, step]
            logits = self._step(fed, hidden, inputs, step)
            drawn = [self._draw(*row) for row in zip(logits, inputs["uniforms"][:, step], strict=True)]
            samples.append([sample for sample, _ in drawn])
            previous = np.array([value for _, value in drawn], previous.dtype)
            all_logits.append(logits)
        sample = np.int32 if self.shape.output == "categorical" else np.float32
        return {
            "samples": np.array(samples, sample).T,
            "previous_out": previous,
            "hidden_out": np.stack(hidden),
            "logits": np.stack(all_logits, axis=1),
        }

    def _step(
        self, previous: NDArray[Any], hidden: list[FloatArray], inputs: Mapping[str, NDArray[Any]], step: int
    ) -> FloatArray:
        shape, weights = self.shape, self.weights
        rows = self._rows(inputs, step)
        if shape.label_feedback:
            gates = weights["feedback"][previous] + rows["gates_0"]
        else:
            gates = fma(previous[:, None], weights["feedback"], rows["gates_0"])
        hidden[0] = self._cell(gates, self._product("recurrent_weight_0", hidden[0]), hidden[0])
        x = hidden[0]
        if shape.skip:
            x = x + fma(previous[:, None], weights["skip_column"], rows["skip"])
        if shape.layers == 2:
            gates = self._product("input_weight_1", x) + rows["gates_1"]
            hidden[1] = self._cell(gates, self._product("recurrent_weight_1", hidden[1]), hidden[1])
            x = hidden[1] + x if shape.skip else hidden[1]
        for i in range(len(shape.fc_sizes)):
            place: Place = "fc_0" if i == 0 else "fc_1"
            x = np.maximum(self._product(f"fc_weight_{i}", x) + rows[place], np.float32(0)) + np.float32(0)
        return self._product("output_weight", x)

    def _cell(self, gates: FloatArray, recurrent: FloatArray, hidden: FloatArray) -> FloatArray:
        input_reset, input_update, input_new = np.split(gates, 3, axis=1)
        hidden_reset, hidden_update, hidden_new = np.split(recurrent, 3, axis=1)
        reset = self._apply("sigmoid", input_reset + hidden_reset)
        update = self._apply("sigmoid", input_update + hidden_update)
        new = self._apply("tanh", fma(reset, hidden_new, input_new))
        state = fma(update, hidden - new, new)
        return np.where(np.abs(state) < np.float32(1e-30), np.float32(0), state)

    def _apply(self, function: str, x: FloatArray) -> FloatArray:
        return apply(self.library, "plain", function, x)

    def _product(self, name: str, x: FloatArray) -> FloatArray:
        """Returns ``x @ weight.T + bias`` with columns in ascending order, [B, rows]."""
        weight = self.weights[name]
        bias = np.float32(0) if (at := _BIASES[name]) is None else self.weights[at]
        total = np.broadcast_to(np.asarray(bias, np.float32), (len(x), len(weight)))
        if self.four_sums:
            parts = np.zeros((4, *total.shape), np.float32)
            for k in range(weight.shape[1]):
                parts[k % 4] = fma(weight[:, k], x[:, k, None], parts[k % 4])
            return total + ((parts[0] + parts[1]) + (parts[2] + parts[3]))
        precision = self.precisions.get(name, "fp32")
        if precision == "int8":
            return self._product_of_integers(name, x, total)
        weight = round_to(weight, precision)
        for k in range(weight.shape[1]):
            total = fma(weight[:, k], x[:, k, None], total)
        return total

    def _product_of_integers(self, name: str, x: FloatArray, bias: FloatArray) -> FloatArray:
        codes, scales = encode_weight(self.weights[name], "int8")
        wide = codes.astype(np.float64)  # whose products and sums of these integers are exact
        if name in self.activation_scales:
            scale = np.full((len(x), 1), self.activation_scales[name], np.float32)
            activations = encode(x, scale, "int8").astype(np.float64)
        else:
            one = 2.0**14
            while one * np.abs(wide).sum(axis=1).max() > 2**31 - 1:
                one /= 2
            mantissa, exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True))
            exponent = np.clip(exponent - (mantissa == 0.5), -63, 63)
            power = np.where(mantissa == 0, 2.0**-63, 2.0**exponent)
            activations = np.rint(np.clip(x * np.float64(one) / power, -one, one))
            scale = (power / one).astype(np.float32)
        sums = (activations @ wide.T).astype(np.float32)
        return fma(sums, scales * scale, bias)

    def _rows(self, inputs: Mapping[str, NDArray[Any]], step: int) -> dict[Place, FloatArray]:
        shape, conditioning = self.shape, inputs["conditioning"]
        batch, window = conditioning.shape[:2]
        rows: dict[Place, FloatArray] = {}
        for place, firsts in zip(shape.places, shape.first_columns(), strict=True):
            width = shape.width(place)
            bias = self.weights[_PLACE_BIASES[place]] if place in _PLACE_BIASES else np.zeros(width, np.float32)
            row = np.tile(bias, (batch, 1))
            for group, first in sorted(firsts.items()):
                columns = conditioning[:, :, first : first + width]
                if shape.group_held[group]:
                    row = row + columns[np.arange(batch), inputs["frame_index"][:, step]]
                    continue
                interpolated = sum(not held for held in shape.group_held[:group])
                for w in range(window):
                    row = fma(inputs["interpolation"][:, interpolated, step, w, None], columns[:, w], row)
            rows[place] = row
        return rows

    def _draw(self, logits: FloatArray, uniforms: FloatArray) -> tuple[Any, Any]:
        """Returns the sample and the value that is fed back."""
        shape = self.shape
        if shape.output == "categorical":
            label = self._pick(logits, uniforms[0])
            return label, label if self.fed_back is None else self.fed_back[label]
        mean, log_scale = logits[0], max(logits[1], np.float32(LOG_DEVIATION_FLOOR))
        if shape.output == "logistic_mixture":
            component = self._pick(logits[:MIXTURES], uniforms[0])
            mean = logits[MIXTURES + component]
            log_scale = max(logits[2 * MIXTURES + component], np.float32(LOG_SCALE_FLOOR))
        deviation = self._apply("exp", np.array([log_scale], np.float32))
        value = np.clip(fma(deviation, uniforms[1], mean), np.float32(-1), np.float32(1))[0]
        return value, value

    def _pick(self, logits: FloatArray, uniform: np.float32) -> int:
        """Returns the smallest class whose cumulative likelihood exceeds uniform * total, in units of 2^-32."""
        shares = self._apply("exp", logits - logits.max())
        cumulative = [0]
        for share in shares:
            cumulative.append(cumulative[-1] + int(float(share) * 2**32))
        threshold = cumulative[-1] * int(float(uniform) * 2**32) >> 32
        return next(k for k, most in enumerate(cumulative[1:]) if most > threshold)
