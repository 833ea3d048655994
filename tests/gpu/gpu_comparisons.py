"""Compares a kernel's outputs with expected ones, bit by bit or within a tolerance, and cuts chunks into parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_cases import SequenceCase
from numpy.typing import NDArray

from wavernn_trt.scripts.gpu.cases import Arrays


def assert_same(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], what: str) -> None:
    """Fails if bits differ; a NaN equals a NaN of the same bits."""
    for name, value in expected.items():
        differs = found[name].view(np.uint32) != value.view(np.uint32)
        assert not differs.any(), f"{what}: {int(differs.sum())} of {value.size} values of {name} have other bits"


def assert_within(excess: float, most: float = 1.0) -> float:
    """Fails if an error, in multiples of the tolerance, exceeds ``most``; returns its share of ``most``."""
    assert excess <= most, f"{excess / most:.3g} of the tolerance"
    return excess / most


def stream_orders(batch: int) -> Sequence[NDArray[np.int64]]:
    """Returns selections of streams: all in another order, the last three, the first alone, the last alone."""
    order = np.random.default_rng(1).permutation(batch)
    return [order, np.arange(batch - 3, batch), np.array([0]), np.array([batch - 1])]


def streams_of(case: SequenceCase, inputs: Arrays, order: NDArray[np.int64]) -> Arrays:
    """Returns a chunk's inputs for some of its streams, in that order."""
    moved = dict(inputs)
    for operand in case.shape.inputs():
        if "B" in operand.shape:
            moved[operand.name] = np.take(inputs[operand.name], order, operand.shape.index("B"))
    return moved


def streams_of_outputs(case: SequenceCase, outputs: Arrays, order: NDArray[np.int64]) -> Arrays:
    """Returns a chunk's outputs for some of its streams, in that order."""
    axes = {operand.name: operand.shape.index("B") for operand in case.shape.outputs_of_node()}
    return {name: np.take(value, order, axes[name]) for name, value in outputs.items()}


def steps_of(case: SequenceCase, inputs: Arrays, start: int, end: int) -> Arrays:
    """Returns a chunk's inputs for the steps from ``start`` up to ``end``."""
    cut = dict(inputs)
    for operand in case.shape.inputs():
        if "T" in operand.shape:
            cut[operand.name] = np.take(inputs[operand.name], np.arange(start, end), operand.shape.index("T"))
    return cut


@dataclass(frozen=True)
class KnownCase(SequenceCase):
    """A case whose expected outputs are given instead of computed."""

    other: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    """The expected outputs."""

    def expected(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        del inputs
        return dict(self.other)


def with_expected(case: SequenceCase, expected: Mapping[str, NDArray[Any]]) -> KnownCase:
    """Returns a case with its expected outputs attached."""
    fields = {field.name: getattr(case, field.name) for field in dataclasses.fields(SequenceCase)}
    return KnownCase(**fields, other=expected)
