"""How one kernel is held to its reference in one case: what the tasks of correctness.py run."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from wavernn_trt.plugins.choice import candidates
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.kernel_cases import Arrays, GruCase, SequenceCase
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.targets import Device
from wavernn_trt.scripts.gpu.comparisons import (
    beside,
    expect_same,
    orders,
    steps_of,
    streams_of,
    streams_of_outputs,
    within,
)
from wavernn_trt.scripts.gpu.forced import ForcedReference, compare_forced
from wavernn_trt.scripts.gpu.models import StandardModel, long_chunk
from wavernn_trt.scripts.gpu.runners import DeviceRunner, HostRunner, Runner, host_library, kernel_cache
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings


class Checks:
    """What every task shares: who runs the kernels, and what they are compared with, each made when it is needed."""

    def __init__(self, settings: Settings) -> None:
        """Makes nothing yet."""
        self.settings = settings
        self._long: dict[tuple[StandardModel, WeightPrecision, int, int], ForcedReference] = {}

    @functools.cached_property
    def runner(self) -> Runner:
        """The GPU, or what stands in for it."""
        folder = self.settings.folder
        return HostRunner(folder / "host") if self.settings.host else DeviceRunner(kernel_cache(folder))

    @functools.cached_property
    def second(self) -> HostRunner:
        """The host build beside the GPU, made by `build`: a kernel's own task has no time for that."""
        host_library(self.settings.folder / "host", build=False)
        return HostRunner(self.settings.folder / "host")

    def build(self) -> Outcome:
        """Makes the host build, where there is g++."""
        try:
            host_library(self.settings.folder / "host")
        except KernelError as error:
            raise MissingError(str(error).partition("\n")[0]) from error
        return Outcome("noted", "built")

    def cell(self, case: GruCase) -> Outcome:
        """Against the reference; through a graph, the same bits."""
        found = self.runner.gru_cell(case)
        excess = case.excess(found)
        if excess <= 1 and self.runner.captures:
            expect_same(
                {"next_hidden": self.runner.gru_cell(case, captured=True)}, {"next_hidden": found}, "a CUDA graph"
            )
        return within(excess)

    def cell_slots(self, case: GruCase) -> Outcome:
        """Moved to other slots, and alone, each stream has the same bits."""
        inputs, found = case.inputs(), self.runner.gru_cell(case)
        for order in orders(case.batch):
            moved = {**inputs, "gates": inputs["gates"][order], "hidden": inputs["hidden"][order]}
            other = self.runner.gru_cell(dataclasses.replace(case, batch=len(order)), moved)
            expect_same({"next_hidden": other}, {"next_hidden": found[order]}, f"streams {order.tolist()}")
        return Outcome("passed")

    def cell_host(self, case: GruCase) -> Outcome:
        """Against the host build."""
        expected, found = self.second.gru_cell(case), self.runner.gru_cell(case)
        difference = float(np.abs(found - expected).max())
        return Outcome("passed" if difference <= 1e-4 else "failed", f"differs by {difference:.2g}")

    def chunk(self, kernel: str, case: SequenceCase, most: float = 1.0, groups: int = 1) -> Outcome:
        """Against the reference; through a graph, the same bits."""
        inputs, expected = _known(case)
        choice = self.choice(kernel, case, groups)
        found = self.runner.sequence(case, inputs, choice=choice)
        excess = beside(case, expected).excess(found, inputs)
        if excess <= most and self.runner.captures:
            expect_same(self.runner.sequence(case, inputs, choice=choice, captured=True), found, "a CUDA graph")
        return within(excess, most)

    def chunk_slots(self, kernel: str, case: SequenceCase) -> Outcome:
        """Moved to other slots, and alone, each stream has the same bits."""
        inputs, _ = _known(case)
        found = self.runner.sequence(case, inputs, choice=self.choice(kernel, case))
        for order in orders(case.batch):
            other = dataclasses.replace(case, batch=len(order))
            moved = self.runner.sequence(other, streams_of(case, inputs, order), choice=self.choice(kernel, other))
            expect_same(moved, streams_of_outputs(case, found, order), f"streams {order.tolist()}")
        return Outcome("passed")

    def chunks(self, kernel: str, case: SequenceCase, inputs: Arrays | None = None) -> Outcome:
        """Two chunks, one after the other, are one long chunk; and the long one again is itself."""
        values = _known(case)[0] if inputs is None else inputs
        choice = self.choice(kernel, case)
        whole = self.runner.sequence(case, values, choice=choice)
        expect_same(self.runner.sequence(case, values, choice=choice), whole, "the same again")
        half = case.steps // 2
        state, samples = {name: values[name] for name in ("previous", "hidden")}, []
        for start, end in ((0, half), (half, case.steps)):
            part = dataclasses.replace(case, steps=end - start)
            found = self.runner.sequence(part, {**steps_of(case, values, start, end), **state}, choice=choice)
            state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
            samples.append(found["samples"])
        joined = {"samples": np.concatenate(samples, axis=1), "previous_out": state["previous"]}
        expect_same({**joined, "hidden_out": state["hidden"]}, whole, "two chunks")
        return Outcome("passed")

    def chunk_host(self, kernel: str, case: SequenceCase) -> Outcome:
        """Against the host build of the same kernel."""
        inputs, _ = _known(case)
        choice = self.choice(kernel, case)
        expected = self.second.sequence(case, inputs, choice=choice)
        return within(beside(case, expected).excess(self.runner.sequence(case, inputs, choice=choice), inputs))

    def full(self, kernel: str, model: StandardModel, precision: WeightPrecision, batch: int, steps: int) -> Outcome:
        """A chunk of full size beside the reference that is fed with the kernel's own samples."""
        reference = self._reference(model, precision, batch, steps)
        if kernel not in reference.found:
            choice = self.choice(kernel, reference.case)
            reference.found[kernel] = self.runner.sequence(reference.case, reference.inputs, choice=choice)
        return compare_forced(reference, kernel)

    def launch_full(
        self, kernel: str, model: StandardModel, precision: WeightPrecision, batch: int, steps: int
    ) -> Outcome:
        """The same chunk, launched, and then cut into two.

        The reference follows the samples of all kernels at once afterwards, which takes no longer than to follow one's.
        """
        reference = self._reference(model, precision, batch, steps)
        choice = self.choice(kernel, reference.case)
        reference.found[kernel] = self.runner.sequence(reference.case, reference.inputs, choice=choice)
        return self.chunks(kernel, reference.case, reference.inputs)

    def choice(self, kernel: str, case: SequenceCase, groups: int = 1) -> Choice:
        """A kernel with as few groups of blocks as take the case's streams, and no fewer than asked for.

        Raises:
            MissingError: it cannot take them here.
        """
        device: Device = self.runner.device
        for choice, _ in candidates(case.shape, case.precision, case.batch, device):
            if choice.kernel == kernel and choice.groups >= groups:
                return choice
        raise MissingError(f"{kernel} has no plan for {case.batch} streams in {groups} groups or more here")

    def _reference(self, model: StandardModel, precision: WeightPrecision, batch: int, steps: int) -> ForcedReference:
        key = (model, precision, batch, steps)
        if key not in self._long:
            self._long.clear()  # tasks of the same chunk follow each other
            self._long[key] = ForcedReference(*long_chunk(model, precision, batch, steps))
        return self._long[key]


@functools.lru_cache(maxsize=2)
def _known(case: SequenceCase) -> tuple[Arrays, Arrays]:
    """A case's inputs and what the reference makes of them, once for the kernels that follow each other."""
    inputs = case.inputs()
    return inputs, case.expected(inputs)
