"""Decoders of the published sizes, and random chunks of any length for them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.reference import MIXTURES
from wavernn_trt.scripts.gpu.cases import Arrays, ChunkCase, random_operand

CHUNK_STEPS = 1024


@dataclass(frozen=True)
class StandardModel:
    """A decoder, and what determines how many rows of conditioning its chunks read."""

    shape: SequenceShape
    hop_length: int
    """Samples a frame."""
    margin: int
    """Rows before and behind a frame that a step reads."""

    def window(self, steps: int = CHUNK_STEPS) -> int:
        """Rows of a chunk's window; enough for any first position in a frame."""
        return (self.hop_length - 1 + steps - 1) // self.hop_length + 1 + 2 * self.margin

    @property
    def multiply_adds(self) -> int:
        """Multiplications with addition in one sample's matrix products; as many weights are read for it."""
        return multiply_adds(self.shape)


def multiply_adds(shape: SequenceShape) -> int:
    """Of the matrix products of one sample."""
    weights = (operand.shape for operand in shape.weight_inputs() if operand.kind == "weight")
    return sum(math.prod(int(size) for size in sizes) for sizes in weights)


def univoc_shape(hidden_size: int, fc_size: int, classes: int) -> SequenceShape:
    """The decoder of univoc: a table of labels, one GRU, two fully connected layers."""
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
    """The decoder of fatchord in RAW mode: two GRUs with a connection around them, three fully connected layers."""
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

    Its random numbers are not centred in the classes' intervals: labels differ where kernels round differently.

    Args:
        model: the decoder.
        precision: of its weights.
        batch: streams.
        steps: of the chunk.
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
