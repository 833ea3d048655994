"""Times chunks of a model on the current GPU, with one upload of operands for all kernels of a batch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.device_stream import DeviceStream, Work, on_device, scratch
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.loaded_kernels import KernelsByDevice
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.plugins.stalls import find_stall
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.scripts.gpu.cases import Arrays, ChunkCase, StandardModel, long_chunk

RUNS, WARM_UP = 20, 2
"""Timed runs, and runs before them that are not timed."""
DISTINCT = 16
"""Streams with distinct conditioning and states; a larger batch repeats them with other random numbers."""
EQUAL_LABELS = 0.9
"""Least share of the first step's labels that equal the reference's; rounding may move a random number across a class
boundary."""
WAITS = 1 << 20
"""Most polls of a thread for words of other blocks: a kernel that is stuck ends within a second."""
STATES = 1e-2
"""Largest root mean square error of the first step's states, whose values are at most 1."""


def repeats(measure: Callable[[], float], runs: int) -> list[float]:
    """Results of repeated measurements, after `WARM_UP` others."""
    for _ in range(WARM_UP):
        measure()
    return [measure() for _ in range(runs)]


class TimedChunks:
    """Chunks of one model, precision and batch on the GPU."""

    def __init__(
        self, model: StandardModel, precision: WeightPrecision, batch: int, cache: KernelCache, steps: int
    ) -> None:
        """Uploads all operands.

        Args:
            model: the decoder.
            precision: of its weights.
            batch: streams.
            cache: of compiled kernels.
            steps: of the longest chunk.
        """
        self._few = min(batch, DISTINCT)
        case, inputs = long_chunk(model, precision, self._few, steps)
        self.case = dataclasses.replace(case, batch=batch)
        self._inputs = _repeated(self.case, inputs, self._few)
        self._outputs = self.case.poisoned_outputs()
        self.loaded = KernelsByDevice(precision, cache)
        self._kernels: dict[Choice, SequenceKernel] = {}
        self._replays: dict[tuple[Choice, int], Work] = {}
        shape = self.case.shape
        operands, scales = store_operands(shape.inputs(), self._inputs, precision)
        with contextlib.ExitStack() as stack:
            self._pointers, self._fetch = stack.enter_context(on_device([*operands, *self._outputs.values(), *scales]))
            size = SequenceKernel(shape, precision, cache).workspace_bytes(batch, steps, self.case.window)
            self._workspace = stack.enter_context(scratch(size))
            self.stream = stack.enter_context(contextlib.closing(DeviceStream()))
            self._open = stack.pop_all()

    def close(self) -> None:
        """Frees the device memory."""
        self._open.close()

    def work(self, choice: Choice, steps: int) -> Work:
        """Returns the function that enqueues a chunk on a stream.

        A shorter chunk reads other random numbers, inside the same arrays.

        Raises:
            KernelError: the grid does not fit on the device.
        """
        case = self.case
        if choice not in self._kernels:
            kernel = SequenceKernel(case.shape, case.precision, choice=choice, loaded=self.loaded)
            kernel.prepare(case.batch)
            self._kernels[choice] = kernel
        prepared = self._kernels[choice]
        return lambda handle: prepared.launch(
            case.batch, steps, case.window, self._pointers, self._workspace, handle, WAITS
        )

    def seconds(self, choice: Choice, steps: int) -> float:
        """Returns the time of a chunk, replayed from a CUDA graph as in the runtime."""
        if (choice, steps) not in self._replays:
            self._replays[choice, steps] = self.stream.captured(self.work(choice, steps))
        return self.stream.seconds(self._replays[choice, steps])

    def check_first_step(self, choice: Choice) -> None:
        """Compares one step's labels and states of the distinct streams with the reference.

        Raises:
            ValueError: they differ by more than rounding explains.
        """
        self.work(choice, 1)(self.stream.handle)
        self.stream.synchronize()
        self._fetch(self._outputs.values())
        self._require_ended(choice, 1)
        samples = np.ravel(self._outputs["samples"])[: self._few, None]
        expected = self._first_step
        if self.case.shape.output == "categorical":
            wrong = samples != expected["samples"]
            if wrong.sum() > max(1, (1 - EQUAL_LABELS) * self._few):
                raise ValueError(f"{choice}: {int(wrong.sum())} of {self._few} labels of the first step are wrong")
        difference = self._outputs["hidden_out"][:, : self._few] - expected["hidden_out"]
        error = float(np.sqrt(np.square(difference).mean()))
        if not error <= STATES:
            raise ValueError(f"{choice}: the first step's states are off by {error:.3g}, expected at most {STATES}")

    def check_range(self, choice: Choice, steps: int) -> None:
        """Raises `ValueError` unless a chunk's samples are valid and its states finite."""
        self._fetch(self._outputs.values())
        self._require_ended(choice, steps)
        samples, hidden = np.ravel(self._outputs["samples"])[: self.case.batch * steps], self._outputs["hidden_out"]
        labels = self.case.shape.output == "categorical"
        valid = samples.min() >= 0 and samples.max() < self.case.shape.outputs if labels else abs(samples).max() <= 1
        if not valid or not np.isfinite(hidden).all():
            raise ValueError(f"{choice}: the timed chunk has samples outside their range or states that are not finite")

    def _require_ended(self, choice: Choice, steps: int) -> None:
        samples = np.ravel(self._outputs["samples"])[: self.case.batch * steps].reshape(self.case.batch, steps)
        if (stall := find_stall(samples)) is not None:
            raise ValueError(f"{choice}: {stall}")

    @functools.cached_property
    def _first_step(self) -> dict[str, Any]:
        """The reference's outputs of a chunk of one step, for the distinct streams."""
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
        return decode_sequence(self.case.shape, inputs, self.case.precision)


def _repeated(case: ChunkCase, inputs: Arrays, few: int) -> Arrays:
    streams, found = np.arange(case.batch) % few, dict(inputs)
    for operand in case.shape.inputs():
        if "B" in operand.shape:
            found[operand.name] = np.take(inputs[operand.name], streams, operand.shape.index("B"))
    random, size = np.random.default_rng(case.batch), found["uniforms"].shape
    found["uniforms"] = random.uniform(0.01, 0.99, size).astype(np.float32)
    return found
