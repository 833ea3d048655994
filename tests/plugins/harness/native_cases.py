"""Random models for the native decoder, in all of its arithmetics."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from kernel_cases import SequenceCase
from native_arithmetic import ExactDecoder
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.operators import NativePrecision, SequenceShape
from wavernn_trt.plugins.arguments import MATRICES, has_gates
from wavernn_trt.plugins.cpu.decoder import NativeDecoder, Zeros
from wavernn_trt.plugins.cpu.library import NativeLibrary
from wavernn_trt.plugins.stored_weights import round_to

Arrays = dict[str, NDArray[Any]]
Arithmetic = Literal["fp32", "bf16", "int8", "int8 x int8"]
"""Of all matrices; ``int8`` has int16 activations."""
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)
Blocks = Literal["16x1", "4x1", "1x4", "4x4"]
BLOCKS: tuple[Blocks, ...] = get_args(Blocks)
_ACTIVATION_SCALES = {name: (1 + i) / 127 for i, name in enumerate(MATRICES)}
"""The first one clips nothing, and every one has values at both ends of its range in some models."""


@dataclass(frozen=True)
class NativeCase:
    """A random model and a random chunk of it."""

    shape: SequenceShape
    arithmetic: Arithmetic = "fp32"
    batch: int = 3
    steps: int = 4
    blocks: Blocks | None = None
    """Weights are zero except for one in seven of these blocks."""

    @property
    def case(self) -> SequenceCase:
        """The same sizes for the numpy reference."""
        return SequenceCase(self.shape, "fp32", self.batch, self.steps)

    @property
    def precision(self) -> NativePrecision:
        """Of the weights."""
        return "int8" if self.arithmetic == "int8 x int8" else self.arithmetic

    @functools.cached_property
    def inputs(self) -> Arrays:
        """Weights and a chunk, by name."""
        inputs = self.case.inputs()
        if self.blocks is not None:
            prune(inputs, self.blocks)
            self.case.centre(inputs)
        if self.arithmetic == "bf16":
            self.case.centre(self._rounded(inputs))
        return inputs

    def excess(self, found: Arrays) -> float:
        """The error as a multiple of what is allowed; in ``fp32``, and in ``bf16``, which rounds only weights."""
        inputs = self._rounded(self.inputs) if self.arithmetic == "bf16" else self.inputs
        return self.case.excess(found, inputs)

    @staticmethod
    def _rounded(inputs: Arrays) -> Arrays:
        return {name: round_to(value, "bf16") if name in MATRICES else value for name, value in inputs.items()}

    def open(self, library: NativeLibrary, path: str | None = None, zeros: Zeros = "skip") -> NativeDecoder:
        """Packs the model."""
        return NativeDecoder(*self._arguments(), library=library, path=path, zeros=zeros)

    def exact(self, library: NativeLibrary) -> ExactDecoder:
        """The same arithmetic in numpy."""
        return ExactDecoder(library, *self._arguments(), four_sums=self.blocks == "1x4")

    def _arguments(self) -> tuple[Any, ...]:
        precisions = {name: self.precision for name in MATRICES if name in self.inputs}
        scales = _ACTIVATION_SCALES if self.arithmetic == "int8 x int8" else {}
        return self.shape, self.inputs, fed_back(self.shape), precisions, scales


@functools.cache
def fed_back(shape: SequenceShape) -> FloatArray | None:
    """The input values of the classes, as in the numpy reference."""
    if shape.output != "categorical" or shape.label_feedback:
        return None
    return (2 * np.arange(shape.outputs, dtype=np.float32) / np.float32(shape.outputs - 1) - 1).astype(np.float32)


def prune(inputs: Arrays, blocks: Blocks) -> None:
    """Sets weights outside of one block in seven to zero; a block lies inside one gate."""
    random = np.random.default_rng(len(inputs))
    rows, columns = map(int, blocks.split("x"))
    for name in MATRICES:
        if name in inputs:
            gates = 3 if has_gates(name) else 1
            height, width = len(inputs[name]) // gates, inputs[name].shape[1]
            kept = random.random((gates, -(-height // rows), -(-width // columns))) < 1 / 7
            mask = kept.repeat(rows, axis=1)[:, :height].repeat(columns, axis=2)[:, :, :width]
            inputs[name] = np.where(mask.reshape(-1, width), inputs[name], np.float32(0))


def some_streams(inputs: Arrays, streams: list[int]) -> Arrays:
    """The chunk of some of the streams; weights are left out."""
    batch = len(inputs["previous"])
    chunk = {name: inputs[name] for name in CHUNK if name in inputs}
    assert all(value.shape[name == "hidden"] == batch for name, value in chunk.items())
    return {name: value[:, streams] if name == "hidden" else value[streams] for name, value in chunk.items()}


CHUNK = ("conditioning", "frame_index", "interpolation", "uniforms", "previous", "hidden")
_STEPS_AXIS = {"frame_index": 1, "interpolation": 2, "uniforms": 1}


def some_steps(inputs: Arrays, first: int, end: int) -> Arrays:
    """The chunk of some of the steps."""
    return {
        name: np.take(value, range(first, end), _STEPS_AXIS[name]) if name in _STEPS_AXIS else value
        for name, value in inputs.items()
    }
