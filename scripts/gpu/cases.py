"""What kernels are tested and timed with: random operands, decoders of the published sizes, and launches to try."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import Operand, Precision, SequenceShape
from wavernn_trt.plugins.choices import KERNELS, family_of
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.reference import MIXTURES
from wavernn_trt.plugins.stored_weights import round_weight, store
from wavernn_trt.plugins.targets import DeviceProperties

Arrays = dict[str, NDArray[Any]]
CHUNK_STEPS = 1024
GROUPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of groups of blocks that are tried."""
ANY_GPU = DeviceProperties.of("any", 90, 132)
"""A GPU that runs every kernel."""
PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8", "fp32")
"""The most important first."""


@dataclass(frozen=True)
class CellCase:
    """The sizes of a GRU cell."""

    batch: int
    hidden_size: int
    precision: Precision = "fp32"

    def inputs(self) -> Arrays:
        """Random operands in the kernel's order; the weight in its stored form."""
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
        """Outputs by name, filled with NaN or with a label that does not exist, so that missing writes are found."""
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
        random: the source of randomness.
        precision: of stored weights. A weight in ``fp8`` is float32 that can be stored without loss: it is encoded on
            upload, since one array cannot hold codes and scales.
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


@dataclass(frozen=True)
class StandardModel:
    """A decoder, and the sizes that determine how many rows of conditioning its chunks read."""

    shape: SequenceShape
    hop_length: int
    """Samples a frame."""
    margin: int
    """Rows before and after a frame that a step reads."""

    def window(self, steps: int = CHUNK_STEPS) -> int:
        """Rows of a chunk's window; enough for any start within a frame."""
        return (self.hop_length - 1 + steps - 1) // self.hop_length + 1 + 2 * self.margin

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one sample; equal to the weights read for it."""
        return multiply_adds(self.shape)


def multiply_adds(shape: SequenceShape) -> int:
    """Multiply-adds in the matrix products of one sample."""
    weights = (operand.shape for operand in shape.weight_inputs() if operand.kind == "weight")
    return sum(math.prod(int(size) for size in sizes) for sizes in weights)


def univoc_shape(hidden_size: int, fc_size: int, classes: int) -> SequenceShape:
    """Decoder of univoc: an embedding, one GRU, two fully connected layers."""
    return SequenceShape(
        hidden_size=hidden_size,
        layers=1,
        fc_sizes=(fc_size,),
        outputs=classes,
        output="categorical",
        label_feedback=True,
        skip=False,
        group_columns=(3 * hidden_size,),
        group_held=(True,),
        place_groups=((0,), ()),
    )


def fatchord_shape(hidden_size: int, fc_size: int, classes: int) -> SequenceShape:
    """Decoder of fatchord in RAW mode: two GRUs with skip connections, three fully connected layers."""
    both, wide = (0, 1), 3 * hidden_size
    return SequenceShape(
        hidden_size=hidden_size,
        layers=2,
        fc_sizes=(fc_size, fc_size),
        outputs=classes,
        output="categorical",
        label_feedback=False,
        skip=True,
        group_columns=(wide + hidden_size, 2 * wide + hidden_size + 2 * fc_size),
        group_held=(False, True),
        place_groups=(both, both, (1,), (1,), (1,)),
    )


STANDARD = {
    "univoc-896": StandardModel(univoc_shape(896, 1024, 1024), hop_length=200, margin=0),
    "fatchord-512": StandardModel(fatchord_shape(512, 512, 512), hop_length=275, margin=2),
    "fatchord-mol-512": StandardModel(
        dataclasses.replace(fatchord_shape(512, 512, 512), outputs=3 * MIXTURES, output="logistic_mixture"),
        hop_length=275,
        margin=2,
    ),
}
"""univoc as published (16 kHz), fatchord as published (22.05 kHz, 9 bits), and the same with a mixture of logistics."""


def long_chunk(
    model: StandardModel, precision: WeightPrecision, batch: int, steps: int = CHUNK_STEPS
) -> tuple[ChunkCase, Arrays]:
    """Makes a chunk of many steps and its inputs.

    Its random numbers are not centred in the classes' intervals: labels may differ if kernels round differently.
    """
    shape, window = model.shape, model.window(steps)
    case = ChunkCase(shape, precision, batch, steps, window)
    random = np.random.default_rng(steps)
    sizes: dict[int | str, int] = {"B": batch, "T": 1, "W": window}
    inputs = {
        operand.name: random_operand(shape, operand, sizes, random, precision)
        for operand in shape.inputs()
        if operand.name != "uniforms"
    }
    inputs["uniforms"] = random.uniform(0.01, 0.99, (batch, steps, shape.uniforms)).astype(np.float32)
    frame = model.margin + np.arange(steps) // model.hop_length
    if "frame_index" in inputs:
        inputs["frame_index"] = np.tile(frame.astype(np.int32), (batch, 1))
    if "interpolation" in inputs:
        reach = np.abs(np.arange(window) - frame[:, None]) <= model.margin  # [T, W]
        weights = (reach / reach.sum(axis=1, keepdims=True)).astype(np.float32)
        inputs["interpolation"] = np.tile(weights, (batch, shape.interpolated, 1, 1))
    return case, inputs


def kernels_with(precision: WeightPrecision) -> list[str]:
    """Kernels that support a precision on some GPU."""
    return [kernel for kernel in KERNELS if family_of(kernel).refusal(precision, ANY_GPU) is None]


def choices_of(
    kernel: str, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties
) -> Iterator[tuple[Choice, Any]]:
    """Yields each number of groups with which a kernel decodes a batch on a device, and its plan. Needs no GPU."""
    family = family_of(kernel)
    if family.refusal(precision, device) is not None:
        return
    for groups in GROUPS if family.has_groups else (1,):
        if groups > min(batch, device.multiprocessors):
            return
        choice = Choice(kernel, groups)
        try:
            yield choice, family.plan(shape, precision, batch, device, choice)
        except KernelError:
            continue
