"""This project's own operators: their names, and the computation of a sequence node.

``CustomGRUPlugin`` is one GRU cell after its input product. ``WaveRNNSequencePlugin`` is all steps of a chunk.
``MaterialisePlugin`` is the identity, whose output is a tensor in memory. Graphs, plugins, kernels and their references
share these definitions, which need neither ONNX nor torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wavernn_trt.export.config import Output

GRU_OPERATOR = "CustomGRUPlugin"
SEQUENCE_OPERATOR = "WaveRNNSequencePlugin"
MATERIALISE_OPERATOR = "MaterialisePlugin"
DOMAIN = "wavernn_trt"
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = "wavernn_trt"

Precision = Literal["fp32", "fp16", "bf16"]
"""Type of matrix products' operands; sums are always float32."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

NativePrecision = Literal["fp32", "bf16", "int8"]
"""Weights of the native decoder on a CPU. ``int8``: a scale for each row, multiplied exactly with int16 activations."""
NATIVE_PRECISIONS: tuple[NativePrecision, ...] = get_args(NativePrecision)
"""Numbered in this order by ``Arithmetic`` in plugins/cpu/model.h."""

Place = Literal["gates_0", "skip", "gates_1", "fc_0", "fc_1"]
"""A place where a step adds conditioning: gates of a layer, skip connection around the GRUs, fully connected layer."""
PLACES: tuple[Place, ...] = get_args(Place)

OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class Operand:
    """An input or output of a node."""

    name: str
    shape: tuple[int | str, ...]
    """Numbers, or ``B`` (streams), ``T`` (steps), ``W`` (rows of a window) and ``C`` (columns of a row)."""
    kind: Literal["float32", "int32", "weight"]
    """``weight`` is a matrix in the engine's precision, [rows, columns] for ``rows`` outputs of ``columns`` inputs."""


WEIGHT_COLUMNS = 32
"""Columns of a sequence node's weights are padded with zeros to a multiple of this number, as kernels read them."""


def padded_weight(operand: Operand) -> Operand:
    """Returns a weight with the padding of a sequence node; any other operand unchanged."""
    if operand.kind != "weight":
        return operand
    rows, columns = (int(size) for size in operand.shape)
    return dataclasses.replace(operand, shape=(rows, -(-columns // WEIGHT_COLUMNS) * WEIGHT_COLUMNS))


@dataclass(frozen=True)
class SequenceShape:
    """The computation of a ``WaveRNNSequencePlugin`` node.

    One step, with ``row_p`` the conditioning of place p at this step and ``@`` a product in the engine's precision::

        gates    = feedback[previous] (or previous * feedback[0]) + row_gates_0 + gates_bias_0
        hidden_0 = gru(gates, hidden_0, recurrent_weight_0, recurrent_bias_0)
        x        = hidden_0
        x       += previous * skip_column + row_skip + skip_bias                       where there is a skip
        gates    = x @ input_weight_1.T + row_gates_1 + gates_bias_1                   where there are two layers
        hidden_1 = gru(gates, hidden_1, recurrent_weight_1, recurrent_bias_1)
        x        = hidden_1 (+ x where there is a skip)
        x        = relu(x @ fc_weight_i.T + row_fc_i + fc_bias_i)                      for each fully connected layer
        logits   = x @ output_weight.T + output_bias

    Then a sample is drawn from the logits and ``uniforms`` as in `wavernn_trt.export.families.samplers`. The next
    ``previous`` is the label k (label feedback), 2k / (outputs - 1) - 1, or a mixture's sample.

    ``row_p`` is the sum over the place's groups: of the window's row ``frame_index[b, t]`` where a group is held, else
    of all rows w of the window times ``interpolation[b, i, t, w]``, i counting the groups that are not held. Inside a
    group, the places that it feeds have its columns in the places' order.
    """

    hidden_size: int
    """H."""
    layers: int
    """1 or 2."""
    fc_sizes: tuple[int, ...]
    """Widths of the one or two hidden fully connected layers."""
    outputs: int
    """Width of the last layer."""
    output: Output
    label_feedback: bool
    """Whether ``previous`` is an int32 label, else a float32 value."""
    skip: bool
    """Whether the input layer is added after the GRUs."""
    group_columns: tuple[int, ...]
    """Columns of each group of the conditioning, one or two groups."""
    group_held: tuple[bool, ...]
    """Whether a group is held, else interpolated."""
    place_groups: tuple[tuple[int, ...], ...]
    """For each of this model's `places`, the groups that feed it, none for a place without conditioning."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The places that a model of this shape has, in the order of `PLACES`."""
        there = {"gates_0": True, "skip": self.skip, "gates_1": self.layers == 2, "fc_0": True}
        return tuple(place for place in PLACES if there.get(place, len(self.fc_sizes) == 2))

    def width(self, place: Place) -> int:
        """Returns the columns of conditioning of a place."""
        if place == "skip":
            return self.hidden_size
        return 3 * self.hidden_size if place.startswith("gates") else self.fc_sizes[int(place[-1])]

    def first_columns(self) -> tuple[dict[int, int], ...]:
        """Returns for each place, by its groups: its first column in the whole conditioning."""
        starts = [sum(self.group_columns[:group]) for group in range(len(self.group_columns))]
        found = []
        for place, groups in zip(self.places, self.place_groups, strict=True):
            found.append({group: starts[group] for group in groups})
            for group in groups:
                starts[group] += self.width(place)
        return tuple(found)

    @property
    def interpolated(self) -> int:
        """Groups that are not held."""
        return sum(not held for held in self.group_held)

    @property
    def uniforms(self) -> int:
        """Random numbers a sample, U."""
        return 1 if self.output == "categorical" else 2

    def chunk_inputs(self) -> tuple[Operand, ...]:
        """Returns the node's first inputs in order: those of a decoder."""
        feedback: Literal["int32", "float32"] = "int32" if self.label_feedback else "float32"
        operands = [Operand("conditioning", ("B", "W", sum(self.group_columns)), "float32")]
        if any(self.group_held):
            operands.append(Operand("frame_index", ("B", "T"), "int32"))
        if self.interpolated:
            operands.append(Operand("interpolation", ("B", self.interpolated, "T", "W"), "float32"))
        operands += [
            Operand("uniforms", ("B", "T", self.uniforms), "float32"),
            Operand("previous", ("B",), feedback),
            Operand("hidden", (self.layers, "B", self.hidden_size), "float32"),
        ]
        return tuple(operands)

    def weight_inputs(self) -> tuple[Operand, ...]:
        """Returns the node's other inputs in order."""
        h, wide = self.hidden_size, 3 * self.hidden_size
        operands = [
            Operand("feedback", (self.outputs if self.label_feedback else 1, wide), "float32"),
            Operand("gates_bias_0", (wide,), "float32"),
            Operand("recurrent_weight_0", (wide, h), "weight"),
            Operand("recurrent_bias_0", (wide,), "float32"),
        ]
        if self.skip:
            operands += [Operand("skip_column", (h,), "float32"), Operand("skip_bias", (h,), "float32")]
        if self.layers == 2:
            operands += [
                Operand("input_weight_1", (wide, h), "weight"),
                Operand("gates_bias_1", (wide,), "float32"),
                Operand("recurrent_weight_1", (wide, h), "weight"),
                Operand("recurrent_bias_1", (wide,), "float32"),
            ]
        width = h
        for i, size in enumerate(self.fc_sizes):
            operands += [
                Operand(f"fc_weight_{i}", (size, width), "weight"),
                Operand(f"fc_bias_{i}", (size,), "float32"),
            ]
            width = size
        operands += [
            Operand("output_weight", (self.outputs, width), "weight"),
            Operand("output_bias", (self.outputs,), "float32"),
        ]
        return tuple(operands)

    def inputs(self) -> tuple[Operand, ...]:
        """Returns all inputs in order, with weights not padded."""
        return self.chunk_inputs() + self.weight_inputs()

    def inputs_of_node(self) -> tuple[Operand, ...]:
        """Returns all inputs in order, with padded weights, as in graphs and kernels."""
        return tuple(padded_weight(operand) for operand in self.inputs())

    def outputs_of_node(self) -> tuple[Operand, ...]:
        """Returns the node's outputs in order."""
        sample: Literal["int32", "float32"] = "int32" if self.output == "categorical" else "float32"
        chunk = {operand.name: operand for operand in self.chunk_inputs()}
        return (
            Operand("samples", ("B", "T"), sample),
            dataclasses.replace(chunk["previous"], name="previous_out"),
            dataclasses.replace(chunk["hidden"], name="hidden_out"),
        )

    @classmethod
    def attribute_names(cls) -> tuple[str, ...]:
        """Returns the names in `to_attributes`: the fields', except ``output``, which ONNX's evaluator reserves."""
        return tuple("distribution" if field.name == "output" else field.name for field in dataclasses.fields(cls))

    def to_attributes(self) -> dict[str, int | list[int]]:
        """Returns ONNX attributes, all integers, which TensorRT passes to a plugin unchanged."""
        return {
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "fc_sizes": list(self.fc_sizes),
            "outputs": self.outputs,
            "distribution": OUTPUTS.index(self.output),
            "label_feedback": int(self.label_feedback),
            "skip": int(self.skip),
            "group_columns": list(self.group_columns),
            "group_held": [int(held) for held in self.group_held],
            "place_groups": [sum(1 << group for group in groups) for groups in self.place_groups],
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SequenceShape:
        """Returns the shape of attributes; numbers may be sequences of one, as in TensorRT's plugin fields.

        Raises:
            ValueError: an attribute is missing, or no such model exists.
        """

        def numbers(name: str) -> tuple[int, ...]:
            if name not in attributes:
                raise ValueError(f"{SEQUENCE_OPERATOR} lacks the attribute {name}; export the model again")
            value = attributes[name]
            many = value if isinstance(value, Sequence) or hasattr(value, "__len__") else [value]
            return tuple(int(number) for number in many)

        def number(name: str) -> int:
            found = numbers(name)
            if len(found) != 1:
                raise ValueError(f"{SEQUENCE_OPERATOR}: attribute {name} is {found}, expected one integer")
            return found[0]

        kind = number("distribution")
        if not 0 <= kind < len(OUTPUTS):
            raise ValueError(f"{SEQUENCE_OPERATOR}: attribute distribution is {kind}, expected 0 to {len(OUTPUTS) - 1}")
        columns = numbers("group_columns")
        return cls(
            hidden_size=number("hidden_size"),
            layers=number("layers"),
            fc_sizes=numbers("fc_sizes"),
            outputs=number("outputs"),
            output=OUTPUTS[kind],
            label_feedback=bool(number("label_feedback")),
            skip=bool(number("skip")),
            group_columns=columns,
            group_held=tuple(map(bool, numbers("group_held"))),
            place_groups=tuple(
                tuple(group for group in range(len(columns)) if mask >> group & 1) for mask in numbers("place_groups")
            ),
        )

    def __post_init__(self) -> None:
        found = {
            "layers": (self.layers in (1, 2), self.layers, "1 or 2"),
            "fc_sizes": (len(self.fc_sizes) in (1, 2), self.fc_sizes, "one or two hidden fully connected layers"),
            "group_columns": (len(self.group_columns) in (1, 2), self.group_columns, "one or two groups"),
            "group_held": (len(self.group_held) == len(self.group_columns), self.group_held, "one for each group"),
            "place_groups": (
                len(self.place_groups) == len(self.places),
                self.place_groups,
                f"one for each of {', '.join(self.places)}",
            ),
        }
        for name, (right, value, expected) in found.items():
            if not right:
                raise ValueError(f"{SEQUENCE_OPERATOR}: {name} is {value}, expected {expected}")
        used = [
            sum(self.width(place) for place, groups in zip(self.places, self.place_groups, strict=True) if g in groups)
            for g in range(len(self.group_columns))
        ]
        if tuple(used) != self.group_columns:
            raise ValueError(
                f"{SEQUENCE_OPERATOR}: groups of {self.group_columns} columns feed places {used} columns wide"
            )
