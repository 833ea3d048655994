"""A model directory's decoder as the sequence kernel takes it: its shape, and its weights as they lie in memory.

What is read is what an engine of form ``sequence`` is built from, by the same passes. They work on ONNX graphs, so this
module imports onnx and onnx-graphsurgeon; only who opens a model for the kernel imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.model_directory import ModelDirectory, ModelDirectoryError
from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import PatternError, fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import FusedSequence, fuse_sequence
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.runtime.errors import VocoderError


@dataclass(frozen=True)
class KernelDecoder:
    """A decoder for the sequence kernel."""

    shape: SequenceShape
    precision: WeightPrecision
    weights: tuple[NDArray[Any], ...]
    """One array for each of ``shape.weight_inputs()``."""
    scales: tuple[NDArray[np.float32], ...]
    """Of the rows of each matrix, in ``fp8`` only."""


def read_decoder(directory: ModelDirectory, precision: WeightPrecision) -> KernelDecoder:
    """Reads a decoder.

    A quantised directory's weights come rounded: ``fp8`` stores the very codes of one that is in fp8, and fp32 every
    number; fp16 rounds what is a code of eight bits times its channel's scale once more, by 2^-11 at most.

    Args:
        directory: a verified model directory.
        precision: of the matrices; biases, the table and whatever else is no matrix stay in float32.

    Raises:
        ModelDirectoryError: the directory's graphs are not this exporter's, or of other sizes than its configuration.
        VocoderError: the sequence kernel does not compute this model, or the precision cannot hold a weight.
    """
    try:
        fused = fuse_sequence(fuse_gates(read_networks(directory), directory.model.input_sizes), directory.model)
        _compare(fused)
    except ModelDirectoryError:
        raise
    except PatternError as error:
        raise VocoderError(
            f"{directory.path}: the sequence kernel does not compute this model: {error}; build an engine of form cell "
            f"(wavernn-trt build {directory.path} --form cell), or use --backend onnxruntime"
        ) from error
    except ValueError as error:
        raise ModelDirectoryError(
            f"{directory.path}: config.json and the graphs are of different sizes: {error}; export it again"
        ) from error
    try:
        weights, scales = store_operands(fused.shape.weight_inputs(), fused.weights, precision)
    except ValueError as error:
        raise VocoderError(f"{directory.path}: {error}; use --precision bf16 or fp32") from error
    return KernelDecoder(fused.shape, precision, tuple(weights), tuple(scales))


def _compare(fused: FusedSequence) -> None:
    for operand in fused.shape.weight_inputs():
        found = fused.weights[operand.name].shape
        if found != operand.shape:
            raise ValueError(f"{operand.name} is {list(found)}, expected {list(operand.shape)}")
