"""Attributes, operands and kernels of each operator, for its TensorRT plugin.

Does not import TensorRT; needs CUDA only to launch kernels.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wavernn_trt.export.operators import (
    GRU_OPERATOR,
    MATERIALISE_OPERATOR,
    SEQUENCE_OPERATOR,
    Operand,
    Precision,
    SequenceShape,
)
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.gru_cell import GruCellKernel
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.operand_shapes import gru_operands

logger = logging.getLogger(__name__)

_UNCAPTURED = 2
"""Consecutive chunks of many launches that may be enqueued outside a capture without a warning: TensorRT needs one to
warm up before each capture, and two lanes may be opened at once."""

Sizes = Mapping[str, int]
"""B, T, W and C of a node, from `wavernn_trt.plugins.operand_shapes.match_shapes`."""


class BoundKernel(Protocol):
    """A kernel for one operation in one precision."""

    def prepare(self, sizes: Sizes) -> None:
        """Compiles and loads the kernel for the current device, so that launches of these sizes can be captured."""

    def workspace_bytes(self, sizes: Sizes) -> int:
        """Returns the size of the workspace of a launch."""

    def launch(self, sizes: Sizes, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Enqueues the kernel on a stream.

        Args:
            sizes: sizes of this launch.
            pointers: device addresses of the inputs, then of the outputs, in the operator's order.
            workspace: device address of `workspace_bytes` bytes.
            stream: handle of a CUDA stream.
        """


class Operation(Protocol):
    """The operator of a node with its attributes."""

    @property
    def operator(self) -> str:
        """Name of the operator."""

    def attributes(self) -> dict[str, int | list[int]]:
        """Returns the attributes of the node, all integers."""

    def inputs(self) -> tuple[Operand, ...]:
        """Returns the inputs, in the node's order."""

    def outputs(self) -> tuple[Operand, ...]:
        """Returns the outputs, in the node's order."""

    def bind(self, precision: Precision) -> BoundKernel:
        """Returns the kernel; equal operations share one, so that a graph of many nodes loads it once."""


@dataclass(frozen=True)
class GruOperation:
    """A ``CustomGRUPlugin`` node."""

    hidden_size: int
    """H."""
    input_size: int
    """Width of the GRU's input; informational only."""

    operator = GRU_OPERATOR

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> GruOperation:
        """Reads the attributes of a node; each may be an integer or an array of one integer.

        Raises:
            ValueError: an attribute is missing or is not a positive integer.
        """
        sizes = {}
        for name in ("hidden_size", "input_size"):
            if name not in attributes:
                raise ValueError(f"{GRU_OPERATOR} lacks the attribute {name}; export the model again")
            found = np.ravel(attributes[name]).tolist()
            if len(found) != 1 or not isinstance(found[0], int) or found[0] < 1:
                raise ValueError(f"{GRU_OPERATOR}: attribute {name} is {attributes[name]}, expected a positive integer")
            sizes[name] = found[0]
        return cls(**sizes)

    def attributes(self) -> dict[str, int | list[int]]:
        return {"hidden_size": self.hidden_size, "input_size": self.input_size}

    def inputs(self) -> tuple[Operand, ...]:
        return gru_operands(self.hidden_size)

    def outputs(self) -> tuple[Operand, ...]:
        return (Operand("next_hidden", ("B", self.hidden_size), "float32"),)

    def bind(self, precision: Precision) -> BoundKernel:
        return _gru_kernel(self.hidden_size, precision)


@dataclass(frozen=True)
class SequenceOperation:
    """A ``WaveRNNSequencePlugin`` node."""

    shape: SequenceShape

    operator = SEQUENCE_OPERATOR

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SequenceOperation:
        return cls(SequenceShape.from_attributes(attributes))

    def attributes(self) -> dict[str, int | list[int]]:
        return self.shape.to_attributes()

    def inputs(self) -> tuple[Operand, ...]:
        return self.shape.inputs_of_node()

    def outputs(self) -> tuple[Operand, ...]:
        return self.shape.outputs_of_node()

    def bind(self, precision: Precision) -> BoundKernel:
        return _sequence_kernel(self.shape, precision)


@dataclass(frozen=True)
class MaterialiseOperation:
    """A ``MaterialisePlugin`` node: a copy of the rows of all steps."""

    operator = MATERIALISE_OPERATOR

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> MaterialiseOperation:
        return cls()

    def attributes(self) -> dict[str, int | list[int]]:
        return {}

    def inputs(self) -> tuple[Operand, ...]:
        return (Operand("rows", ("T", "B", "C"), "float32"),)

    def outputs(self) -> tuple[Operand, ...]:
        return (Operand("materialised", ("T", "B", "C"), "float32"),)

    def bind(self, precision: Precision) -> BoundKernel:
        return _COPY


OPERATIONS: Mapping[str, type[GruOperation] | type[SequenceOperation] | type[MaterialiseOperation]] = {
    GRU_OPERATOR: GruOperation,
    SEQUENCE_OPERATOR: SequenceOperation,
    MATERIALISE_OPERATOR: MaterialiseOperation,
}
"""Class of each operator."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    GRU_OPERATOR: tuple(field.name for field in dataclasses.fields(GruOperation)),
    SEQUENCE_OPERATOR: SequenceShape.attribute_names(),
    MATERIALISE_OPERATOR: (),
}
"""Names of the integer attributes of each operator."""


class _GruKernel:
    def __init__(self, hidden_size: int, precision: Precision) -> None:
        self._kernel = GruCellKernel(hidden_size, precision)

    def prepare(self, sizes: Sizes) -> None:
        self._kernel.prepare()

    def workspace_bytes(self, sizes: Sizes) -> int:
        return 0

    def launch(self, sizes: Sizes, pointers: Sequence[int], workspace: int, stream: int) -> None:
        self._kernel.launch(sizes["B"], pointers, stream)


class _SequenceKernel:
    def __init__(self, shape: SequenceShape, precision: Precision) -> None:
        self._kernel = SequenceKernel(shape, precision)
        self._uncaptured, self._warned = 0, False

    def prepare(self, sizes: Sizes) -> None:
        self._kernel.prepare(sizes["B"])

    def workspace_bytes(self, sizes: Sizes) -> int:
        return self._kernel.workspace_bytes(sizes["B"], sizes["T"], sizes["W"])

    def launch(self, sizes: Sizes, pointers: Sequence[int], workspace: int, stream: int) -> None:
        launches = self._kernel.launches(sizes["B"], sizes["T"])
        if launches > 1 and not self._warned:
            self._uncaptured = 0 if driver.is_capturing(stream) else self._uncaptured + 1
            if self._uncaptured > _UNCAPTURED:
                self._warned = True
                logger.warning(
                    "%s: %d chunks were enqueued on a stream that no CUDA graph captures; each is %d launches from "
                    "Python, which takes far longer than the kernels. Capture the enqueue in a CUDA graph",
                    SEQUENCE_OPERATOR,
                    self._uncaptured,
                    launches,
                )
        self._kernel.launch(sizes["B"], sizes["T"], sizes["W"], pointers, workspace, stream)


class _Copy:
    """A copy by the driver, for every precision; a CUDA graph captures it as a node."""

    def prepare(self, sizes: Sizes) -> None:
        driver.current_device()  # raises the error now if there is no driver or device

    def workspace_bytes(self, sizes: Sizes) -> int:
        return 0

    def launch(self, sizes: Sizes, pointers: Sequence[int], workspace: int, stream: int) -> None:
        source, destination = pointers
        driver.copy(source, destination, 4 * sizes["T"] * sizes["B"] * sizes["C"], stream)


_COPY = _Copy()
_gru_kernel = functools.cache(_GruKernel)
_sequence_kernel = functools.cache(_SequenceKernel)
