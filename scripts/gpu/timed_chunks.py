"""A model's chunks on the GPU for one batch, with weights and operands uploaded once, to be timed in every kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.choice import candidates
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.device_stream import DeviceStream, Work, on_device, scratch
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.kernel_cases import Arrays, SequenceCase
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.scripts.gpu.comparisons import beside
from wavernn_trt.scripts.gpu.models import StandardModel, long_chunk

DISTINCT = 16
"""Streams with conditioning and states of their own; a larger batch repeats them, with other random numbers."""
MOST = 6
"""Kernels and numbers of groups that are timed."""
EQUAL_LABELS = 0.9
"""Of the step that is looked at; a random number may fall between two roundings."""


class TimedChunks:
    """One model, precision and batch."""

    def __init__(
        self, model: StandardModel, precision: WeightPrecision, batch: int, cache: KernelCache, steps: int
    ) -> None:
        """Uploads everything.

        Args:
            model: which.
            precision: of its weights.
            batch: streams.
            cache: of compiled kernels.
            steps: of the longest chunk.
        """
        few = min(batch, DISTINCT)
        case, inputs = _few_streams(model, precision, few, steps)
        self.case = dataclasses.replace(case, batch=batch)
        self._inputs, self._few = _repeated(self.case, inputs, few), few
        self._outputs = self.case.poisoned_outputs()
        self._cache = cache
        self._kernels: list[SequenceKernel] = []
        self._replays: dict[tuple[Choice, int], Work] = {}
        shape = self.case.shape
        operands, scales = store_operands(shape.inputs(), self._inputs, precision)
        with contextlib.ExitStack() as stack:
            self._pointers, self._fetch = stack.enter_context(on_device([*operands, *self._outputs.values(), *scales]))
            self._scales = self._pointers[len(self._pointers) - len(scales) :]
            room = SequenceKernel(shape, precision, cache).workspace_bytes(batch, steps, self.case.window)
            self._workspace = stack.enter_context(scratch(room))
            self._stream = stack.enter_context(contextlib.closing(DeviceStream()))
            self._open = stack.pop_all()

    def close(self) -> None:
        """Gives everything back."""
        self._open.close()

    def plans(self) -> dict[Choice, Any]:
        """All that can decode the batch on this GPU."""
        _, device = driver.current_device()
        case = self.case
        return dict(candidates(case.shape, case.precision, case.batch, device))

    def shortlist(self, kernels: list[str]) -> list[Choice]:
        """What is timed: of each kernel the fewest groups that take the batch, then more groups.

        Args:
            kernels: that may be timed.
        """
        order = [choice for choice in self.plans() if choice.kernel in kernels]
        firsts = list({choice.kernel: choice for choice in reversed(order)}.values())
        return [*firsts, *(choice for choice in order if choice not in firsts)][:MOST]

    def launch(self, choice: Choice, steps: int) -> float:
        """Seconds of a chunk, replayed from a CUDA graph as the runtime does.

        A shorter chunk reads other random numbers of the same arrays, and stays inside them.
        """
        if (choice, steps) not in self._replays:
            case, kernel = self.case, SequenceKernel(self.case.shape, self.case.precision, self._cache, choice)
            kernel.prepare(case.batch)
            self._kernels.append(kernel)  # its code has to stay loaded

            def work(handle: int) -> None:
                kernel.launch(case.batch, steps, case.window, self._pointers, self._workspace, handle)

            self._replays[choice, steps] = self._stream.captured(work)
        return self._stream.seconds(self._replays[choice, steps])

    def check(self, choice: Choice) -> None:
        """Compares one step's labels and states, of some streams, with the reference; a chunk has to be whole.

        Raises:
            ValueError: it is not what it should be.
        """
        self.launch(choice, 1)
        self._fetch(self._outputs.values())
        samples = np.ravel(self._outputs["samples"])[: self._few, None]
        inputs, expected = self._first_step
        if self.case.shape.output == "categorical":
            wrong = samples != expected["samples"]
            if wrong.sum() > max(1, (1 - EQUAL_LABELS) * self._few):
                raise ValueError(f"{choice}: {int(wrong.sum())} of {self._few} labels of the first step are wrong")
        one = beside(dataclasses.replace(self.case, batch=self._few, steps=1), expected)
        excess = one.excess({"hidden_out": self._outputs["hidden_out"][:, : self._few]}, inputs)
        if not excess <= 1:
            raise ValueError(f"{choice}: the first step's states are off by {excess:.3g} of the tolerance")

    def require_whole(self, choice: Choice, steps: int) -> None:
        """Looks at what a chunk left.

        Raises:
            ValueError: a sample or a state that cannot be.
        """
        self._fetch(self._outputs.values())
        samples, hidden = np.ravel(self._outputs["samples"])[: self.case.batch * steps], self._outputs["hidden_out"]
        labels = self.case.shape.output == "categorical"
        right = samples.min() >= 0 and samples.max() < self.case.shape.outputs if labels else abs(samples).max() <= 1
        if not right or not np.isfinite(hidden).all():
            raise ValueError(f"{choice}: the timed chunk has samples that do not exist, or states that are no numbers")

    @functools.cached_property
    def _first_step(self) -> tuple[Arrays, Arrays]:
        """What the first streams of a chunk of one step read, and the reference's outputs."""
        inputs = dict(self._inputs)
        for operand in self.case.shape.inputs():
            array = inputs[operand.name]
            if "T" in operand.shape:
                axis = operand.shape.index("T")
                sizes = [1 if i == axis else size for i, size in enumerate(array.shape)]
                array = np.ravel(array)[: int(np.prod(sizes))].reshape(sizes)
            if "B" in operand.shape:
                array = np.take(array, np.arange(self._few), operand.shape.index("B"))
            inputs[operand.name] = array
        return inputs, dataclasses.replace(self.case, batch=self._few, steps=1).expected(inputs)


@functools.lru_cache(maxsize=4)
def _few_streams(model: StandardModel, precision: WeightPrecision, few: int, steps: int) -> tuple[SequenceCase, Arrays]:
    return long_chunk(model, precision, few, steps)


def _repeated(case: SequenceCase, inputs: Arrays, few: int) -> Arrays:
    streams, found = np.arange(case.batch) % few, dict(inputs)
    for operand in case.shape.inputs():
        if "B" in operand.shape:
            found[operand.name] = np.take(inputs[operand.name], streams, operand.shape.index("B"))
    random, size = np.random.default_rng(case.batch), found["uniforms"].shape
    found["uniforms"] = random.uniform(0.01, 0.99, size).astype(np.float32)
    return found
