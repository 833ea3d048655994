"""A decoder as a plan of the sequence kernel: weights from a model directory, and launches of chunks.

The weights come from the same graph passes as those of an engine of form ``sequence``. The passes need onnx and
onnx-graphsurgeon, so this module is imported only when the backend ``cuda`` opens a model.
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
from wavernn_trt.export.rewrite.from_directory import fuse_directory
from wavernn_trt.export.rewrite.fuse_gates import PatternError
from wavernn_trt.export.rewrite.fuse_sequence import refuse_amplitudes
from wavernn_trt.export.sequence import read_sequence
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
    """Scales of the rows of each matrix; only for ``fp8``."""


def read_decoder(directory: ModelDirectory, precision: WeightPrecision) -> KernelDecoder:
    """Reads a decoder.

    The weights of a quantised directory are rounded. For weights in fp8, the precision ``fp8`` stores the same codes;
    ``fp32`` stores all values exactly; ``fp16`` rounds the product of an 8-bit code and its scale, by 2^-11 at most.

    Args:
        directory: a verified model directory.
        precision: of the matrices; biases and tables are in float32.

    Raises:
        ModelDirectoryError: the graphs are not from this exporter, or their sizes differ from the configuration.
        VocoderError: the sequence kernel does not support this model, or a weight is outside of the precision's range.
    """
    try:
        refuse_amplitudes(directory.model)
        fused = read_sequence(directory) or fuse_directory(directory)
        fused.check()
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
    """A decoder's plan with fixed sizes; see `wavernn_trt.runtime.executors.device.Plan`."""

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
            device: to run on.
            decoder: the model.
            slots: streams of every chunk.
            steps: of every chunk.
            window: rows of conditioning that a chunk reads.
            cache: of compiled kernels; ``None`` is the user's.
            table: a file of measured times; see `SequenceKernel`.
            waits: polls before the kernel gives up; see `SequenceKernel.launch`.

        Raises:
            KernelError: there is no compiler, or the kernel cannot be loaded or launched on the device.
            VocoderError: the device's memory is full.
        """
        shape = decoder.shape
        self.slots, self.steps, self.window, self.waits = slots, steps, window, waits
        self.precision: WeightPrecision = decoder.precision
        sizes = {"B": slots, "T": steps, "W": window}
        self.bindings = (
            *(_binding(operand, "input", sizes) for operand in shape.chunk_inputs()),
            *(_binding(operand, "output", sizes) for operand in shape.outputs_of_node()),
        )
        self.shape: SequenceShape = shape
        self.kernel = SequenceKernel(shape, decoder.precision, cache, table=table)
        self._device = device
        with device.current():
            self.kernel.plan(slots)  # before the upload, so that a launch that does not fit fails early
            self.weights = _upload(device, decoder.weights)
            self.scales = _upload(device, decoder.scales)

    @property
    def name(self) -> str:
        """Names of the selected kernel and the precision."""
        with self._device.current():
            choice = self.kernel.choice(self.slots)
        return f"{choice.kernel}_{self.precision}" + (f"_groups{choice.groups}" if choice.groups > 1 else "")

    def context(self, *, one_shape: bool) -> KernelContext:
        del one_shape  # sizes are fixed
        size = self.kernel.workspace_bytes(self.slots, self.steps, self.window)
        return KernelContext(self, self._device.allocate(size))

    def warmed_up(self) -> None:
        """Does nothing: the compiled kernel is stored before its first execution."""


class KernelContext:
    """Workspace and operands of a plan's execution; see `wavernn_trt.runtime.executors.device.PlanContext`."""

    def __init__(self, plan: KernelPlan, workspace: Buffer) -> None:
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
            *(self._bound[operand.name] for operand in shape.chunk_inputs()),
            *plan.weights,
            *(self._bound[operand.name] for operand in shape.outputs_of_node()),
            *plan.scales,
        ]
        pointers = [buffer.address for buffer in operands]
        sizes = (plan.slots, plan.steps, plan.window)
        plan.kernel.launch(*sizes, pointers, self._workspace.address, stream.handle, plan.waits)

    def capturable(self, stream: Stream) -> bool:
        del stream
        return True  # a launch neither allocates nor waits


def _binding(operand: Operand, kind: Any, sizes: dict[str, int]) -> Binding:
    shape = tuple(sizes[size] if isinstance(size, str) else size for size in operand.shape)
    return Binding(operand.name, kind, operand.kind, shape)


def _upload(device: Device, arrays: Iterable[NDArray[Any]]) -> list[Buffer]:
    """Copies arrays to the current device."""
    stream = device.stream()
    buffers = []
    for array in arrays:
        staged = device.pinned(array.shape, array.dtype.str)
        np.copyto(staged, array)
        buffers.append(device.allocate(array.nbytes))
        stream.copy_in(buffers[-1], staged)
        stream.synchronize()  # one at a time, to limit the host's memory
    return buffers
