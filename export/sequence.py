"""``sequence.npz``: the decoder's weights as the project's own kernels take them, readable without ONNX.

The file has one float32 array for each of ``SequenceShape.weight_inputs()``, and the shape's attributes as integers
under ``shape.NAME``. Weights of quantised products are rounded to their grids.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import SEQUENCE, ModelDirectory, ModelDirectoryError
from wavernn_trt.export.operators import SequenceShape

_SHAPE = "shape."


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
    """Writes the file into a directory under construction."""
    arrays: dict[str, Any] = {
        f"{_SHAPE}{name}": np.asarray(value, np.int64) for name, value in sequence.shape.to_attributes().items()
    }
    arrays.update({operand.name: sequence.weights[operand.name] for operand in sequence.shape.weight_inputs()})
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
        sequence = FusedSequence(SequenceShape.from_attributes(attributes), arrays)
        sequence.check()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelDirectoryError(f"{path}: {error}; export the checkpoint again") from None
    model, shape = directory.model, sequence.shape
    expected = (model.hidden_size, model.layers, model.fc_sizes, model.outputs, model.output, model.columns)
    found = (shape.hidden_size, shape.layers, shape.fc_sizes, shape.outputs, shape.output, sum(shape.group_columns))
    held = tuple(group.expansion == "held" for group in model.groups)
    if found != expected or shape.label_feedback != model.label_feedback or shape.group_held != held:
        raise ModelDirectoryError(f"{path}: its decoder is not that of config.json; export the checkpoint again")
    return sequence
