"""Checks one kernel in one case: the numpy reference, CUDA graphs, slots, chunk cuts, the host build, long chunks.

Each check raises an AssertionError where the kernel is wrong, and returns its error as a share of the tolerance.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from device_kernels import DeviceKernels
from gpu_comparisons import (
    assert_same,
    assert_within,
    steps_of,
    stream_orders,
    streams_of,
    streams_of_outputs,
    with_expected,
)
from gpu_forced import Forced, ForcedReference
from host_kernels import HostKernels
from kernel_cases import GruCase, SequenceCase
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stalls import find_stall
from wavernn_trt.plugins.targets import DeviceProperties
from wavernn_trt.scripts.gpu.cases import (
    STANDARD,
    Arrays,
    StandardModel,
    choices_of,
    fatchord_shape,
    long_chunk,
    univoc_shape,
)


class Runner(Protocol):
    """Runs cases; outputs, and the workspace where possible, are filled with NaN before."""

    captures: bool
    """Whether it can run a case in a CUDA graph."""

    @property
    def device(self) -> DeviceProperties:
        """The device that kernels are planned for."""

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> NDArray[np.float32]:
        """Returns the new hidden state."""

    def sequence(
        self, case: SequenceCase, inputs: Mapping[str, NDArray[Any]], *, choice: Choice, captured: bool = False
    ) -> Arrays:
        """Returns the node's outputs."""


class DeviceRunner(DeviceKernels):
    """Runs cases on the GPU whose context is current."""

    captures = True

    def sequence(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        choice: Choice | None = None,
        captured: bool = False,
    ) -> Arrays:
        """Fails if the kernel waited without result."""
        found = super().sequence(case, inputs, choice=choice, captured=captured)
        stall = find_stall(found["samples"])
        assert stall is None, stall
        return found

    @property
    def device(self) -> DeviceProperties:
        return driver.current_device()[1]


class HostRunner:
    """Runs cases on the kernels' host build, in groups of two blocks."""

    captures = False
    device = DeviceProperties("host", 90, 16, 1 << 17)

    def __init__(self, library: Path) -> None:
        """Loads the host build."""
        self._kernels = HostKernels(library)

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> NDArray[np.float32]:
        del captured
        return self._kernels.gru_cell(case, inputs, warps=2)

    def sequence(
        self, case: SequenceCase, inputs: Mapping[str, NDArray[Any]], *, choice: Choice, captured: bool = False
    ) -> Arrays:
        del captured
        try:
            found = self._kernels.run(case, inputs, choice)
        except KernelError as error:
            pytest.skip(f"two blocks of the host build cannot hold it: {error}")
        return {operand.name: found[operand.name] for operand in case.shape.outputs_of_node()}


class Checks:
    """The checks, with the runner that they share."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._long: dict[tuple[StandardModel, WeightPrecision, int, int], ForcedReference] = {}

    def cell(self, case: GruCase) -> float:
        """Compares a cell with the reference, and its bits with those in a CUDA graph."""
        found = self.runner.gru_cell(case)
        excess = assert_within(case.excess(found))
        if self.runner.captures:
            again = {"next_hidden": self.runner.gru_cell(case, captured=True)}
            assert_same(again, {"next_hidden": found}, "a CUDA graph")
        return excess

    def cell_slots(self, case: GruCase) -> None:
        """Compares each stream's bits in other slots, and alone."""
        inputs, found = case.inputs(), self.runner.gru_cell(case)
        for order in stream_orders(case.batch):
            moved = {**inputs, "gates": inputs["gates"][order], "hidden": inputs["hidden"][order]}
            other = self.runner.gru_cell(dataclasses.replace(case, batch=len(order)), moved)
            assert_same({"next_hidden": other}, {"next_hidden": found[order]}, f"streams {order.tolist()}")

    def cell_beside(self, second: Runner, case: GruCase) -> float:
        """Compares a cell with another runner, the host build."""
        difference = float(np.abs(self.runner.gru_cell(case) - second.gru_cell(case)).max())
        assert difference <= 1e-4
        return difference / 1e-4

    def chunk(self, kernel: str, case: SequenceCase, most: float = 1.0, groups: int = 1) -> float:
        """Compares a chunk with the reference, and its bits with those in a CUDA graph."""
        inputs, expected = known(case)
        choice = self.choice(kernel, case, groups)
        found = self.runner.sequence(case, inputs, choice=choice)
        excess = assert_within(with_expected(case, expected).excess(found, inputs), most)
        if self.runner.captures:
            assert_same(self.runner.sequence(case, inputs, choice=choice, captured=True), found, "a CUDA graph")
        return excess

    def chunk_slots(self, kernel: str, case: SequenceCase) -> None:
        """Compares each stream's bits in other slots, alone and in other batches."""
        inputs, _ = known(case)
        found = self.runner.sequence(case, inputs, choice=self.choice(kernel, case))
        for order in stream_orders(case.batch):
            other = dataclasses.replace(case, batch=len(order))
            moved = self.runner.sequence(other, streams_of(case, inputs, order), choice=self.choice(kernel, other))
            assert_same(moved, streams_of_outputs(case, found, order), f"streams {order.tolist()}")

    def chunk_cuts(self, kernel: str, case: SequenceCase, inputs: Arrays | None = None) -> Arrays:
        """Compares a chunk's bits with those of a repetition and of two halves; returns its outputs."""
        values = known(case)[0] if inputs is None else inputs
        choice = self.choice(kernel, case)
        whole = self.runner.sequence(case, values, choice=choice)
        assert_same(self.runner.sequence(case, values, choice=choice), whole, "the same again")
        state = {name: values[name] for name in ("previous", "hidden")}
        samples, at = [], case.steps // 2
        for start, end in ((0, at), (at, case.steps)):
            part = dataclasses.replace(case, steps=end - start)
            found = self.runner.sequence(part, {**steps_of(case, values, start, end), **state}, choice=choice)
            state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
            samples.append(found["samples"])
        joined = {"samples": np.concatenate(samples, axis=1), "previous_out": state["previous"]}
        assert_same({**joined, "hidden_out": state["hidden"]}, whole, "two chunks")
        return whole

    def chunk_beside(self, second: Runner, kernel: str, case: SequenceCase) -> float:
        """Compares a chunk with the same kernel in another runner, the host build."""
        inputs, _ = known(case)
        choice = self.choice(kernel, case)
        expected = second.sequence(case, inputs, choice=choice)
        found = self.runner.sequence(case, inputs, choice=choice)
        return assert_within(with_expected(case, expected).excess(found, inputs))

    def full_cuts(self, kernel: str, model: StandardModel, precision: WeightPrecision, batch: int, steps: int) -> None:
        """Like `chunk_cuts` for a chunk of full size.

        The outputs are kept: `full` computes the reference of all kernels in one pass, which takes as long as that of
        one kernel.
        """
        reference = self._reference(model, precision, batch, steps)
        reference.found[kernel] = self.chunk_cuts(kernel, reference.case, reference.inputs)

    def full(self, kernel: str, model: StandardModel, precision: WeightPrecision, batch: int, steps: int) -> Forced:
        """Compares a chunk of full size with the reference that is fed with the kernel's own samples."""
        reference = self._reference(model, precision, batch, steps)
        if kernel not in reference.found:
            choice = self.choice(kernel, reference.case)
            reference.found[kernel] = self.runner.sequence(reference.case, reference.inputs, choice=choice)
        forced = reference.compare(kernel)
        assert forced.excess <= 1, forced
        return forced

    def choice(self, kernel: str, case: SequenceCase, groups: int = 1) -> Choice:
        """Returns the kernel with the fewest groups of blocks, at least ``groups``; skips where there is none."""
        for choice, _ in choices_of(kernel, case.shape, case.precision, case.batch, self.runner.device):
            if choice.groups >= groups:
                return choice
        pytest.skip(f"{kernel} has no plan for {case.batch} streams in {groups} groups or more here")

    def _reference(self, model: StandardModel, precision: WeightPrecision, batch: int, steps: int) -> ForcedReference:
        key = (model, precision, batch, steps)
        if key not in self._long:
            self._long.clear()  # tests of one chunk follow each other
            self._long[key] = ForcedReference(*long_chunk(model, precision, batch, steps))
        return self._long[key]


@functools.lru_cache(maxsize=2)
def known(case: SequenceCase) -> tuple[Arrays, Arrays]:
    """Returns a case's inputs and the reference's outputs, computed once for consecutive kernels."""
    inputs = case.inputs()
    return inputs, case.expected(inputs)


def small_model(name: str) -> StandardModel:
    """Returns a standard model with small layers."""
    small = {"univoc-896": univoc_shape(16, 24, 64), "fatchord-512": fatchord_shape(12, 16, 32)}
    mixture = dataclasses.replace(small["fatchord-512"], outputs=30, output="logistic_mixture")
    return dataclasses.replace(STANDARD[name], shape={**small, "fatchord-mol-512": mixture}[name])
