"""A model in the native decoder: checks arrays, packs weights, and decodes chunks."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.operators import (
    NATIVE_PRECISIONS,
    OUTPUTS,
    PLACES,
    SEQUENCE_OPERATOR,
    NativePrecision,
    SequenceShape,
)
from wavernn_trt.plugins.arguments import BIASES, GROUPS_OF_COLUMNS, MATRICES
from wavernn_trt.plugins.cpu.library import ChunkArguments, Description, NativeLibrary, native_library
from wavernn_trt.plugins.operand_shapes import match_shapes

Zeros = Literal["keep 1x4", "skip", "dense", "16x1", "4x1", "1x4"]
ZEROS: tuple[Zeros, ...] = get_args(Zeros)
"""Storage of a matrix with zeros. ``skip``: blocks of 16 x 1, 4 x 1 or 1 x 4 weights (and so 4 x 4) are skipped where
enough of them are zero; the matrix is in float32 then. The others are for tests: all matrices dense, or with blocks of
one kind; ``keep 1x4`` sums as ``1x4``, but skips nothing."""
_INT8_ACTIVATIONS = 3
"""Arithmetic with int8 activations as well; see ``Arithmetic`` in model.h."""
_LARGEST_BF16 = 255.0 * 2.0**120
_SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32 number."""


@dataclass(frozen=True)
class StepWork:
    """Work of the matrix products of a step; limits of a speed follow from it."""

    weight_bytes: int
    """Bytes of the stored weights and, where zeros are skipped, of their columns; a step reads them once for all of its
    streams."""
    float_products: int
    """Multiply-adds of floats for each stream."""
    integer_products: int = 0
    """Multiply-adds of integers for each stream."""


class NativeDecoder:
    """A packed model. Thread-safe: calls may overlap."""

    def __init__(
        self,
        shape: SequenceShape,
        weights: Mapping[str, NDArray[Any]],
        fed_back: FloatArray | None,
        precisions: Mapping[str, NativePrecision],
        activation_scales: Mapping[str, float] | None = None,
        *,
        zeros: Zeros = "skip",
        library: NativeLibrary | None = None,
        path: str | None = None,
    ) -> None:
        """Packs the weights.

        Args:
            shape: the model.
            weights: float32, by the names of ``shape.weight_inputs()``.
            fed_back: [outputs], the input value of each class; ``None`` unless classes are fed back as values.
            precisions: of the matrices, by name; ``fp32`` for those not in it.
            activation_scales: of matrices in int8, scales of activations in int8; all others have int16 activations.
            zeros: blocks of zeros that are skipped; see `ZEROS`.
            library: ``None`` is the installed one.
            path: instruction set; ``None`` is the best of this machine.

        Raises:
            NativeLibraryError: the library is missing, or has no such path.
            ValueError: an array is missing, of a wrong shape or type, or has values that are not finite or that bf16
                cannot hold; a precision or a scale is wrong.
            MemoryError: there is not enough memory.
        """
        self.shape = shape
        self._library = library or native_library()
        self.path = path or self._library.path
        """Instruction set."""
        arrays = _checked_weights(shape, weights)
        _check_settings(arrays, precisions, activation_scales or {})
        described = _description(shape, arrays, precisions, activation_scales or {}, ZEROS.index(zeros) - 2)
        if shape.output == "categorical" and not shape.label_feedback:
            if fed_back is None or fed_back.shape != (shape.outputs,):
                raise ValueError(f"fed_back: expected the input values of {shape.outputs} classes")
            values = np.ascontiguousarray(fed_back, np.float32)
            described.fed_back = values.ctypes.data
        self._handle = self._library.open(described, self.path)
        # Not at the interpreter's end: threads that do not keep it from ending may still decode.
        weakref.finalize(self, self._library.close, self._handle).atexit = False

    @property
    def work(self) -> StepWork:
        """Work of a step."""
        return StepWork(*self._library.work(self._handle))

    def decode(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        threads: int = 1,
        forced: NDArray[Any] | None = None,
        logits: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Decodes a chunk of B streams and T steps.

        Args:
            inputs: arrays by the names of ``shape.chunk_inputs()``. With ``forced``, ``uniforms`` may have no columns.
            threads: number of threads, at least 1.
            forced: [B, T], input of each step instead of ``previous`` and the drawn samples.
            logits: whether to return the logits.

        Returns:
            ``samples`` [B, T] (undefined without uniforms), ``previous_out`` [B], ``hidden_out`` [L, B, H], and
            ``logits``, float32 [B, T, outputs].

        Raises:
            ValueError: an array is missing, or has a wrong shape or type; a label or a frame is out of range.
            MemoryError: there is not enough memory.
        """
        shape = self.shape
        if threads < 1:
            raise ValueError(f"threads: found {threads}, expected at least 1")
        arrays = _checked_chunk(shape, inputs, forced)
        batch, steps = arrays["uniforms"].shape[:2]
        previous, hidden = arrays["previous"].copy(), arrays["hidden"].copy()
        sample = np.int32 if shape.output == "categorical" else np.float32
        samples: NDArray[Any] = np.zeros((batch, steps), sample)
        found = np.zeros((batch, steps, shape.outputs), np.float32) if logits else None
        fed = None
        if forced is not None:
            _check_range(shape, forced)
            fed = np.ascontiguousarray(forced, previous.dtype)
        if batch and steps:
            arguments = ChunkArguments(
                conditioning=_address(arrays["conditioning"]),
                frame_index=_address(arrays.get("frame_index")),
                interpolation=_address(arrays.get("interpolation")),
                uniforms=_address(arrays["uniforms"]) if arrays["uniforms"].shape[2] else None,
                forced=_address(fed),
                previous=_address(previous),
                hidden=_address(hidden),
                samples=_address(samples),
                logits=_address(found),
                batch=batch,
                steps=steps,
                window=arrays["conditioning"].shape[1],
                threads=threads,
            )
            self._library.decode(self._handle, arguments)
        result = {"samples": samples, "previous_out": previous, "hidden_out": hidden}
        return result if found is None else {**result, "logits": found}


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """Returns the array itself, or a copy that is contiguous and aligned."""
    return np.require(array, requirements=["C", "A"])


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _checked_weights(shape: SequenceShape, weights: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
    operands = shape.weight_inputs()
    missing = [operand.name for operand in operands if operand.name not in weights]
    if missing:
        raise ValueError(f"{SEQUENCE_OPERATOR}: the weight {missing[0]} is missing")
    arrays = {operand.name: _contiguous(weights[operand.name]) for operand in operands}
    for operand in operands:
        if arrays[operand.name].dtype != np.float32:
            raise ValueError(f"{operand.name} is {arrays[operand.name].dtype}, expected float32")
        if arrays[operand.name].shape != operand.shape:
            found = list(arrays[operand.name].shape)
            raise ValueError(f"{operand.name} is {found}, expected {list(operand.shape)}")
        if not np.isfinite(arrays[operand.name]).all():
            raise ValueError(f"{operand.name}: found NaN or infinity among the weights; export a sound checkpoint")
    return arrays


def _check_settings(
    arrays: Mapping[str, FloatArray], precisions: Mapping[str, str], activation_scales: Mapping[str, float]
) -> None:
    matrices = [name for name in MATRICES if name in arrays]
    for name in (*precisions, *activation_scales):
        if name not in MATRICES:
            raise ValueError(f"precisions: found the matrix {name!r}, expected one of {', '.join(matrices)}")
    for name in matrices:
        precision, scale = precisions.get(name, "fp32"), activation_scales.get(name, 1.0)
        if precision not in NATIVE_PRECISIONS:
            raise ValueError(f"{name}: found precision {precision!r}, expected one of {', '.join(NATIVE_PRECISIONS)}")
        if precision == "bf16" and (largest := np.abs(arrays[name]).max()) > _LARGEST_BF16:
            raise ValueError(f"{name}: found weights up to {largest:g}, which bf16 cannot hold; use fp32")
        if not _SMALLEST_SCALE <= scale < np.inf:
            raise ValueError(f"{name}: found an activation scale of {scale}, expected a positive normal number")


def _description(
    shape: SequenceShape,
    arrays: Mapping[str, FloatArray],
    precisions: Mapping[str, NativePrecision],
    activation_scales: Mapping[str, float],
    zeros: int,
) -> Description:
    """Returns the C structure; its pointers are valid as long as ``arrays``."""
    described = Description(
        hidden=shape.hidden_size,
        layers=shape.layers,
        fc_layers=len(shape.fc_sizes),
        outputs=shape.outputs,
        output=OUTPUTS.index(shape.output),
        label_feedback=shape.label_feedback,
        skip=shape.skip,
        columns=sum(shape.group_columns),
        groups=len(shape.group_columns),
        uniforms=shape.uniforms,
    )
    for name in ("feedback", "gates_bias_0", "gates_bias_1", "skip_column", "skip_bias"):
        setattr(described, name, _address(arrays.get(name)))
    for i, (name, bias) in enumerate(zip(MATRICES, BIASES, strict=True)):
        if name not in arrays:
            continue
        matrix = described.matrices[i]
        matrix.weight, matrix.bias = _address(arrays[name]), _address(arrays[bias] if bias else None)
        matrix.rows, matrix.columns = arrays[name].shape
        matrix.zeros = zeros
        matrix.arithmetic = NATIVE_PRECISIONS.index(precisions.get(name, "fp32"))
        if name in activation_scales and precisions.get(name) == "int8":
            matrix.arithmetic, matrix.activation_scale = _INT8_ACTIVATIONS, activation_scales[name]
    described.held[:] = [int(held) for held in shape.group_held] + [0] * (GROUPS_OF_COLUMNS - len(shape.group_held))
    columns = dict(zip(shape.places, shape.first_columns(), strict=True))
    for i, place in enumerate(PLACES):
        for group in range(GROUPS_OF_COLUMNS):
            described.place_first[i][group] = columns.get(place, {}).get(group, -1)
    return described


def _checked_chunk(
    shape: SequenceShape, inputs: Mapping[str, NDArray[Any]], forced: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    """Returns contiguous inputs after checking everything that the library relies on."""
    operands = shape.chunk_inputs()
    missing = [operand.name for operand in operands if operand.name not in inputs]
    if missing:
        raise ValueError(f"{SEQUENCE_OPERATOR}: the input {missing[0]} is missing")
    arrays = {operand.name: _contiguous(inputs[operand.name]) for operand in operands}
    for operand in operands:
        if arrays[operand.name].dtype != operand.kind:
            found = arrays[operand.name].dtype
            raise ValueError(f"{SEQUENCE_OPERATOR}: {operand.name} is {found}, expected {operand.kind}")
    shapes = {name: array.shape for name, array in arrays.items()}
    if forced is not None and shapes["uniforms"][2:] == (0,):
        shapes["uniforms"] = (*shapes["uniforms"][:2], shape.uniforms)
    match_shapes(SEQUENCE_OPERATOR, operands, [shapes[operand.name] for operand in operands])
    if forced is not None and forced.shape != arrays["uniforms"].shape[:2]:
        raise ValueError(f"forced is {list(forced.shape)}, expected {list(arrays['uniforms'].shape[:2])}")
    _check_range(shape, arrays["previous"])
    window = arrays["conditioning"].shape[1]
    frames = arrays.get("frame_index")
    if frames is not None and frames.size and not (frames.min() >= 0 and frames.max() < window):
        raise ValueError(f"frame_index: found {frames.min()} to {frames.max()}, expected 0 to {window - 1}")
    return arrays


def _check_range(shape: SequenceShape, labels: NDArray[Any]) -> None:
    if shape.label_feedback and labels.size and not (labels.min() >= 0 and labels.max() < shape.outputs):
        raise ValueError(f"labels: found {labels.min()} to {labels.max()}, expected 0 to {shape.outputs - 1}")
