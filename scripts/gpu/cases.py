"""Random GRU cells and chunks of random models: what kernels are timed and tested with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import Operand, Precision, SequenceShape
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stored_weights import round_weight, store

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CellCase:
    """The sizes of a GRU cell."""

    batch: int
    hidden_size: int
    precision: Precision = "fp32"

    def inputs(self) -> Arrays:
        """gates, hidden, recurrent_weight as it is stored, recurrent_bias."""
        random, size = np.random.default_rng(self.hidden_size), self.hidden_size
        weight = (random.standard_normal((3 * size, size)) / np.sqrt(size)).astype(np.float32)
        return {
            "gates": random.standard_normal((self.batch, 3 * size)).astype(np.float32),
            "hidden": random.uniform(-1, 1, (self.batch, size)).astype(np.float32),
            "recurrent_weight": store(weight, self.precision),
            "recurrent_bias": random.standard_normal(3 * size).astype(np.float32),
        }


@dataclass(frozen=True)
class ChunkCase:
    """The sizes of a chunk."""

    shape: SequenceShape
    precision: WeightPrecision = "fp32"
    batch: int = 3
    steps: int = 6
    window: int = 4

    def poisoned_outputs(self) -> Arrays:
        """By the names of ``shape.outputs_of_node()``, full of NaN, or of a label that does not exist."""
        sizes: dict[int | str, Any] = {"B": self.batch, "T": self.steps}
        return {
            operand.name: np.full(
                [sizes.get(size, size) for size in operand.shape],
                np.nan if operand.kind == "float32" else -(2**31),
                operand.kind,
            )
            for operand in self.shape.outputs_of_node()
        }


def random_operand(
    shape: SequenceShape,
    operand: Operand,
    sizes: Mapping[int | str, int],
    random: np.random.Generator,
    precision: WeightPrecision,
) -> NDArray[Any]:
    """A random value of one operand of a chunk.

    Args:
        shape: the model.
        operand: one of its inputs.
        sizes: B, T and W.
        random: the source.
        precision: in which a weight is to be stored. In ``fp8`` it is float32 that can be stored without loss: codes
            are made where they are uploaded, since an array alone does not hold their scales.
    """
    size = [int(sizes.get(size, size)) for size in operand.shape]
    if operand.name == "frame_index":
        return random.integers(0, sizes["W"], size, dtype=np.int32)
    if operand.name == "interpolation":
        weights = random.random(size, np.float32)
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
    if operand.kind == "int32":
        return random.integers(0, shape.outputs, size, dtype=np.int32)
    if operand.name == "uniforms":
        return random.uniform(0.01, 0.99, size).astype(np.float32)
    values = random.standard_normal(size).astype(np.float32)
    if operand.kind == "weight":
        weight = values / np.float32(np.sqrt(size[1]))
        return round_weight(weight, "fp8") if precision == "fp8" else store(weight, precision)
    return np.tanh(values) if operand.name in ("hidden", "previous") else np.float32(0.3) * values
