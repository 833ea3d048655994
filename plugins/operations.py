"""The operators as something that a plugin can hold: their attributes, operands and kernels.

Nothing here knows TensorRT, and nothing needs CUDA until a kernel is launched.
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
"""Chunks of many launches that are enqueued without a capture, in succession, before a warning: TensorRT wants one to
warm up before each capture, and two lanes may be opened at once."""

Sizes = Mapping[str, int]
"""B, T, W and C of a node, as `wavernn_trt.plugins.operand_shapes.match_shapes` finds them."""


class BoundKernel(Protocol):
    """A kernel for one operation in one precision."""

    def prepare(self, sizes: Sizes) -> None:
        """Compiles and loads it for the current device, so that launches of these sizes can be captured."""

    def workspace_bytes(self, sizes: Sizes) -> int:
        """Bytes of device memory that a launch of these sizes needs beside its operands."""

    def launch(self, sizes: Sizes, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Puts it on a stream.

        Args:
            sizes: of this launch.
            pointers: device addresses of the inputs, then of the outputs, in the operator's order.
            workspace: device address of as many bytes as `workspace_bytes` says.
            stream: a CUDA stream's handle.
        """


class Operation(Protocol):
    """What one node computes."""

    @property
    def operator(self) -> str:
        """The operator's name."""

    def attributes(self) -> dict[str, int | list[int]]:
        """The node's attributes, integers all."""

    def inputs(self) -> tuple[Operand, ...]:
        """In the node's order."""

    def outputs(self) -> tuple[Operand, ...]:
        """In the node's order."""

    def bind(self, precision: Precision) -> BoundKernel:
        """The kernel that computes it: one for all equal operations, so that a thousand nodes load it once."""


@dataclass(frozen=True)
class GruOperation:
    """A ``CustomGRUPlugin`` node."""

    hidden_size: int
    """H."""
    input_size: int
    """Width of the input whose product the gates are; informational only."""

    operator = GRU_OPERATOR

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> GruOperation:
        """From the node's attributes; each may come as an array of one.

        Raises:
            ValueError: one is missing or is not a positive integer.
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
    """A ``MaterialisePlugin`` node: the rows of all steps, copied."""

    operator = MATERIALISE_OPERATOR

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> MaterialiseOperation:
        """There are none to read."""
        return cls()

    def attributes(self) -> dict[str, int | list[int]]:
        return {}

    def inputs(self) -> tuple[Operand, ...]:
        return (Operand("rows", ("T", "B", "C"), "float32"),)

    def outputs(self) -> tuple[Operand, ...]:
        return (Operand("materialised", ("T", "B", "C"), "float32"),)

    def bind(self, precision: Precision) -> BoundKernel:
        """See `Operation`; a copy is the same in every precision."""
        return _COPY


OPERATIONS: Mapping[str, type[GruOperation] | type[SequenceOperation] | type[MaterialiseOperation]] = {
    GRU_OPERATOR: GruOperation,
    SEQUENCE_OPERATOR: SequenceOperation,
    MATERIALISE_OPERATOR: MaterialiseOperation,
}
"""By operator."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    GRU_OPERATOR: tuple(field.name for field in dataclasses.fields(GruOperation)),
    SEQUENCE_OPERATOR: SequenceShape.attribute_names(),
    MATERIALISE_OPERATOR: (),
}
"""Names of the integer attributes, by operator."""


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
    """Not a kernel of ours: the driver's own copy, which a CUDA graph captures as a node."""

    def prepare(self, sizes: Sizes) -> None:
        driver.current_device()  # what is missing is said now

    def workspace_bytes(self, sizes: Sizes) -> int:
        return 0

    def launch(self, sizes: Sizes, pointers: Sequence[int], workspace: int, stream: int) -> None:
        source, destination = pointers
        driver.copy(source, destination, 4 * sizes["T"] * sizes["B"] * sizes["C"], stream)


_COPY = _Copy()


@functools.cache
def _gru_kernel(hidden_size: int, precision: Precision) -> _GruKernel:
    return _GruKernel(hidden_size, precision)


@functools.cache
def _sequence_kernel(shape: SequenceShape, precision: Precision) -> _SequenceKernel:
    return _SequenceKernel(shape, precision)
