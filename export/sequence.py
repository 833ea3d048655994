"""``sequence.npz``: the decoder's weights as the project's own kernels take them, readable without ONNX.

The file has the shape's attributes as integers under ``shape.NAME``, and for each of ``SequenceShape.weight_inputs()``
a float32 array, or under ``place.NAME`` where the array is in ``decoder.weights``: the first byte, and its shape.
Weights of quantised products are rounded to their grids.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.model_directory import SEQUENCE, WEIGHTS, ModelDirectory, ModelDirectoryError
from wavernn_trt.export.operators import SequenceShape

_SHAPE, _PLACE = "shape.", "place."


@dataclass(frozen=True)
class FusedSequence:
    """A decoder as one computation: its shape, and its weights by the names of ``SequenceShape.weight_inputs``."""

    shape: SequenceShape
    weights: Mapping[str, FloatArray]

    def check(self) -> None:
        """Checks the weights' shapes.

        Raises:
            ValueError: a weight is missing, or has another shape or type.
        """
        for operand in self.shape.weight_inputs():
            found = self.weights.get(operand.name)
            if found is None or found.shape != operand.shape or found.dtype != np.float32:
                what = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise ValueError(f"{operand.name}: found {what}, expected float32 {list(operand.shape)}")


def write_sequence(folder: Path, sequence: FusedSequence) -> None:
    """Writes the file into a directory under construction that has ``decoder.weights``."""
    graphs = (folder / WEIGHTS).read_bytes()
    arrays: dict[str, Any] = {
        f"{_SHAPE}{name}": np.asarray(value, np.int64) for name, value in sequence.shape.to_attributes().items()
    }
    for operand in sequence.shape.weight_inputs():
        array = sequence.weights[operand.name]
        offset = graphs.find(array.tobytes())
        if offset < 0:
            arrays[operand.name] = array
        else:
            arrays[_PLACE + operand.name] = np.array([offset, *array.shape])
    np.savez_compressed(folder / SEQUENCE, **arrays)


def read_sequence(directory: ModelDirectory) -> FusedSequence | None:
    """Reads the file of a verified directory; ``None`` in directories of earlier versions, which have none.

    Raises:
        ModelDirectoryError: it does not contain a decoder, or not that of ``config.json``.
    """
    path = directory.file(SEQUENCE)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        attributes = {
            name.removeprefix(_SHAPE): np.atleast_1d(arrays.pop(name))
            for name in list(arrays)
            if name.startswith(_SHAPE)
        }
        shape = SequenceShape.from_attributes(attributes)
        _check_shape(shape, directory.model)
        graphs = directory.file(WEIGHTS).read_bytes()
        for name in [name for name in arrays if name.startswith(_PLACE)]:
            offset, *sizes = arrays.pop(name).tolist()
            stored = np.frombuffer(graphs, np.float32, math.prod(sizes), offset)
            arrays[name.removeprefix(_PLACE)] = stored.reshape(sizes)
        sequence = FusedSequence(shape, arrays)
        sequence.check()
    except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelDirectoryError(f"{path}: {error}; export the checkpoint again") from None
    return sequence


def _check_shape(shape: SequenceShape, model: ModelConfig) -> None:
    expected = (model.hidden_size, model.layers, model.fc_sizes, model.outputs, model.output, model.columns)
    found = (shape.hidden_size, shape.layers, shape.fc_sizes, shape.outputs, shape.output, sum(shape.group_columns))
    held = tuple(group.expansion == "held" for group in model.groups)
    if found != expected or shape.label_feedback != model.label_feedback or shape.group_held != held:
        raise ValueError("its decoder is not that of config.json")
