"""A decoder as a plan of the sequence kernel: its weights, read from a model directory, and chunks to be launched.

What is read is what an engine of form ``sequence`` is built from, by the same passes. They work on ONNX graphs, so this
module imports onnx and onnx-graphsurgeon; it is imported only to open a model with the backend ``cuda``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.engines.plan_record import Binding
from wavernn_trt.export.model_directory import ModelDirectory, ModelDirectoryError
from wavernn_trt.export.operators import Operand, SequenceShape
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import PatternError, fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import FusedSequence, fuse_sequence
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import Buffer, Device, Stream


@dataclass(frozen=True)
class KernelDecoder:
    """A decoder for the sequence kernel."""

    shape: SequenceShape
    precision: WeightPrecision
    weights: tuple[NDArray[Any], ...]
    """One array for each of ``shape.weight_inputs()``."""
    scales: tuple[NDArray[np.float32], ...]
    """Of the rows of each matrix, in ``fp8`` only."""


def read_decoder(directory: ModelDirectory, precision: WeightPrecision) -> KernelDecoder:
    """Reads a decoder.

    A quantised directory's weights come rounded: ``fp8`` stores the very codes of one that is in fp8, and fp32 every
    number; fp16 rounds what is a code of eight bits times its channel's scale once more, by 2^-11 at most.

    Args:
        directory: a verified model directory.
        precision: of the matrices; biases, the table and whatever else is no matrix stay in float32.

    Raises:
        ModelDirectoryError: the directory's graphs are not this exporter's, or of other sizes than its configuration.
        VocoderError: the sequence kernel does not compute this model, or the precision cannot hold a weight.
    """
    try:
        fused = fuse_sequence(fuse_gates(read_networks(directory), directory.model.input_sizes), directory.model)
        _compare(fused)
    except ModelDirectoryError:
        raise
    except PatternError as error:
        raise VocoderError(
            f"{directory.path}: the sequence kernel does not compute this model: {error}; build an engine of form cell "
            f"(wavernn-trt build {directory.path} --form cell), or use --backend onnxruntime"
        ) from error
    except ValueError as error:
        raise ModelDirectoryError(
            f"{directory.path}: config.json and the graphs are of different sizes: {error}; export it again"
        ) from error
    try:
        weights, scales = store_operands(fused.shape.weight_inputs(), fused.weights, precision)
    except ValueError as error:
        raise VocoderError(f"{directory.path}: {error}; use --precision bf16 or fp32") from error
    return KernelDecoder(fused.shape, precision, tuple(weights), tuple(scales))


class KernelPlan:
    """See `Plan`. All of its sizes are fixed."""

    def __init__(
        self,
        device: Device,
        decoder: KernelDecoder,
        *,
        slots: int,
        steps: int,
        window: int,
        cache: KernelCache | None = None,
        table: Path | None = None,
        waits: int = WAITS,
    ) -> None:
        """Compiles and loads the kernel, plans its launch, and uploads the weights.

        Args:
            device: where it runs.
            decoder: the model.
            slots: streams of every chunk.
            steps: of every chunk.
            window: rows of conditioning that a chunk reads.
            cache: of compiled kernels; the user's unless given.
            table: a file of measured rows; see `SequenceKernel`.
            waits: polls before the kernel gives up; see `SequenceKernel.launch`.

        Raises:
            KernelError: there is no compiler, the kernel does not load, or the device has no room for its launch.
            VocoderError: the device's memory does not suffice.
        """
        shape = decoder.shape
        self.slots, self.steps, self.window, self.waits = slots, steps, window, waits
        self.precision: WeightPrecision = decoder.precision
        sizes = {"B": slots, "T": steps, "W": window}
        self.bindings = (
            *(_binding(one, "input", sizes) for one in shape.chunk_inputs()),
            *(_binding(one, "output", sizes) for one in shape.outputs_of_node()),
        )
        self.shape: SequenceShape = shape
        self.kernel = SequenceKernel(shape, decoder.precision, cache, table=table)
        self._device = device
        with device.current():
            self.kernel.plan(slots)  # before the weights: what does not fit is refused at once
            self.weights = _upload(device, decoder.weights)
            self.scales = _upload(device, decoder.scales)

    @property
    def name(self) -> str:
        """The kernel that was chosen, and its precision."""
        with self._device.current():
            choice = self.kernel.choice(self.slots)
        return f"{choice.kernel}_{self.precision}" + (f"_groups{choice.groups}" if choice.groups > 1 else "")

    def context(self, *, one_shape: bool) -> KernelContext:
        del one_shape  # there is but one
        size = self.kernel.workspace_bytes(self.slots, self.steps, self.window)
        return KernelContext(self, self._device.allocate(size))

    def warmed_up(self) -> None:
        """See `Plan`. The kernel was compiled and kept before it ran."""


class KernelContext:
    """See `PlanContext`: a workspace, and where a chunk's operands are."""

    def __init__(self, plan: KernelPlan, workspace: Buffer) -> None:
        """Takes its workspace.

        Args:
            plan: what it runs, with the weights.
            workspace: of as many bytes as the kernel asks for.
        """
        self._plan = plan
        self._workspace = workspace
        self._bound: dict[str, Buffer] = {}

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        raise RuntimeError(f"{name}: found {shape} for a kernel whose sizes are fixed")

    def bind(self, name: str, buffer: Buffer) -> None:
        self._bound[name] = buffer

    def enqueue(self, stream: Stream) -> None:
        plan, shape = self._plan, self._plan.shape
        operands = [
            *(self._bound[one.name] for one in shape.chunk_inputs()),
            *plan.weights,
            *(self._bound[one.name] for one in shape.outputs_of_node()),
            *plan.scales,
        ]
        pointers = [buffer.address for buffer in operands]
        sizes = (plan.slots, plan.steps, plan.window)
        plan.kernel.launch(*sizes, pointers, self._workspace.address, stream.handle, plan.waits)

    def capturable(self, stream: Stream) -> bool:
        """See `PlanContext`. A launch allocates nothing and waits for nothing."""
        del stream
        return True


def _compare(fused: FusedSequence) -> None:
    for operand in fused.shape.weight_inputs():
        found = fused.weights[operand.name].shape
        if found != operand.shape:
            raise ValueError(f"{operand.name} is {list(found)}, expected {list(operand.shape)}")


def _binding(operand: Operand, kind: Any, sizes: dict[str, int]) -> Binding:
    shape = tuple(sizes[size] if isinstance(size, str) else size for size in operand.shape)
    return Binding(operand.name, kind, operand.kind, shape)


def _upload(device: Device, arrays: Iterable[NDArray[Any]]) -> list[Buffer]:
    """Copies of arrays on a device, which is current."""
    stream = device.stream()
    buffers = []
    for array in arrays:
        staged = device.pinned(array.shape, array.dtype.str)
        np.copyto(staged, array)
        buffers.append(device.allocate(array.nbytes))
        stream.copy_in(buffers[-1], staged)
        stream.synchronize()  # one at a time: the host's memory need not hold them all
    return buffers
