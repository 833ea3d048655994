"""Outputs beside other outputs: the same bits, or close enough; and parts of a chunk's inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins.kernel_cases import Arrays, SequenceCase
from wavernn_trt.scripts.gpu.tasks import Outcome


def within(excess: float, most: float = 1.0) -> Outcome:
    """Whether an error, as a share of the tolerance, is small enough."""
    share = min(excess / most, 1e9)  # JSON knows no infinity
    return Outcome("passed" if share <= 1 else "failed", f"{share:.3g} of the tolerance", {"excess": share})


def expect_same(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], what: str) -> None:
    """Raises a `ValueError` where bits differ."""
    for name, value in expected.items():
        differs = found[name].view(np.uint32) != value.view(np.uint32)  # bits, so that NaN is itself
        if differs.any():
            raise ValueError(f"{what}: {int(differs.sum())} of {value.size} values of {name} have other bits")


def orders(batch: int) -> Sequence[NDArray[np.int64]]:
    """All streams in another order, the last few, and two of them alone."""
    order = np.random.default_rng(1).permutation(batch)
    return [order, np.arange(batch - 3, batch), np.array([0]), np.array([batch - 1])]


def streams_of(case: SequenceCase, inputs: Arrays, order: NDArray[np.int64]) -> Arrays:
    """A chunk's inputs, of some streams in another order."""
    moved = dict(inputs)
    for operand in case.shape.inputs():
        if "B" in operand.shape:
            moved[operand.name] = np.take(inputs[operand.name], order, operand.shape.index("B"))
    return moved


def streams_of_outputs(case: SequenceCase, outputs: Arrays, order: NDArray[np.int64]) -> Arrays:
    """A chunk's outputs, likewise."""
    axes = {operand.name: operand.shape.index("B") for operand in case.shape.outputs_of_node()}
    return {name: np.take(value, order, axes[name]) for name, value in outputs.items()}


def steps_of(case: SequenceCase, inputs: Arrays, start: int, end: int) -> Arrays:
    """A chunk's inputs, of some steps."""
    cut = dict(inputs)
    for operand in case.shape.inputs():
        if "T" in operand.shape:
            axis = operand.shape.index("T")
            cut[operand.name] = np.take(inputs[operand.name], np.arange(start, end), axis)
    return cut


@dataclass(frozen=True)
class KnownCase(SequenceCase):
    """A case whose reference is known."""

    other: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    """What the outputs should be."""

    def expected(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `SequenceCase`."""
        del inputs
        return dict(self.other)


def beside(case: SequenceCase, expected: Mapping[str, NDArray[Any]]) -> KnownCase:
    """A case with what its outputs should be."""
    fields = {field.name: getattr(case, field.name) for field in dataclasses.fields(SequenceCase)}
    return KnownCase(**fields, other=expected)
