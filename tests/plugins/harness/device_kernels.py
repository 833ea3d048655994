"""Random cells and chunks on the GPU; host_kernels.py runs the same on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from kernel_cases import GruCase
from numpy.typing import NDArray

from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.device_stream import DeviceStream, Work, on_device
from wavernn_trt.plugins.gru_cell import GruCellKernel
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.loaded_kernels import KernelsByDevice
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.scripts.gpu.cases import Arrays, ChunkCase


class DeviceKernels:
    """Runs cases on the device whose context is current; every call allocates, copies and waits.

    Compiled kernels are loaded once for each precision, and stay loaded as long as this object lives.
    """

    def __init__(self, cache: KernelCache | None = None, waits: int = WAITS) -> None:
        """Loads nothing yet.

        Args:
            cache: of compiled kernels; the user's unless given.
            waits: how often a thread looks for what other blocks write before the kernel gives up.
        """
        self._cache, self._waits = cache, waits
        self._loaded: dict[WeightPrecision, KernelsByDevice] = {}

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> NDArray[np.float32]:
        """Runs a cell.

        Args:
            case: what to run.
            inputs: other ones than the case's.
            captured: whether it is captured into a CUDA graph, and that is launched twice.

        Raises:
            KernelError: there is no GPU, or a call fails.
        """
        kernel = GruCellKernel(case.hidden_size, case.precision, loaded=self._kernels(case.precision))
        kernel.prepare()
        next_hidden = np.full((case.batch, case.hidden_size), np.nan, np.float32)
        with on_device([*(inputs or case.inputs()).values(), next_hidden]) as (pointers, fetch):
            _run(lambda stream: kernel.launch(case.batch, pointers, stream), captured)
            fetch([next_hidden])
        return next_hidden

    def sequence(
        self,
        case: ChunkCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        choice: Choice | None = None,
        captured: bool = False,
    ) -> Arrays:
        """Runs a chunk on outputs and a workspace full of NaN.

        Args:
            case: what to run.
            inputs: of the case.
            choice: the kernel; the one that a user would get unless given.
            captured: whether it is captured into a CUDA graph, and that is launched twice.

        Returns:
            The node's outputs.

        Raises:
            KernelError: there is no GPU, or a call fails.
        """
        kernel = SequenceKernel(case.shape, case.precision, choice=choice, loaded=self._kernels(case.precision))
        kernel.prepare(case.batch)
        sizes = (case.batch, case.steps, case.window)
        outputs = case.poisoned_outputs()
        operands, scales = store_operands(case.shape.inputs(), inputs, case.precision)
        workspace = np.full(kernel.workspace_bytes(*sizes), 0xFF, np.uint8)
        with on_device([*operands, *outputs.values(), *scales, workspace]) as (pointers, fetch):
            _run(lambda stream: kernel.launch(*sizes, pointers[:-1], pointers[-1], stream, self._waits), captured)
            fetch(outputs.values())
        return outputs

    def _kernels(self, precision: WeightPrecision) -> KernelsByDevice:
        if precision not in self._loaded:
            self._loaded[precision] = KernelsByDevice(precision, self._cache)
        return self._loaded[precision]


def _run(work: Work, captured: bool) -> None:
    with contextlib.closing(DeviceStream()) as stream:
        if captured:
            work = stream.captured(work)
            work(stream.handle)  # a replay has to find everything as the first launch did
        work(stream.handle)
        stream.synchronize()
