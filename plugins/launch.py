"""Kernels as something to launch on a stream. Constructing one needs neither a GPU nor CUDA; a launch needs both."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wavernn_trt.export.operators import Precision, SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache, KernelFile
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.gru_plan import gru_arguments, plan_gru
from wavernn_trt.plugins.sequence_plan import THREADS, TILES, SequencePlan, plan_sequence
from wavernn_trt.plugins.targets import Device
from wavernn_trt.plugins.workspace import COUNTER_BYTES, lay_out, sequence_arguments


@dataclass
class _OnDevice:
    """The kernels of one file, loaded for one device."""

    device: Device
    kernels: dict[int, driver.LoadedKernel]  # by tile
    plans: dict[int, SequencePlan] = field(default_factory=dict)  # by batch


class _Kernels:
    """The kernels of one file and precision, compiled and loaded for a device when it is first used."""

    def __init__(self, file: KernelFile, precision: Precision, cache: KernelCache | None) -> None:
        self._file, self._precision = file, precision
        self._cache = cache
        self._loaded: dict[int, _OnDevice] = {}
        self._lock = threading.Lock()

    def on_current_device(self) -> _OnDevice:
        ordinal, device = driver.current_device()
        with self._lock:
            if ordinal not in self._loaded:
                cache = self._cache or KernelCache()
                library: Any = driver.load_library(cache.get(self._file, self._precision, device.sm).cubin)
                kernels = {
                    tile: driver.LoadedKernel(library, f"{self._file}_{tile}", ordinal, device) for tile in TILES
                }
                self._loaded[ordinal] = _OnDevice(device, kernels)
            return self._loaded[ordinal]


class GruCellKernel:
    """``CustomGRUPlugin``'s kernel: one launch is one cell."""

    def __init__(self, hidden_size: int, precision: Precision, cache: KernelCache | None = None) -> None:
        """Nothing is compiled yet.

        Args:
            hidden_size: H.
            precision: of the recurrent weights.
            cache: of compiled kernels; the user's unless given.
        """
        self._hidden_size, self._precision = hidden_size, precision
        self._kernels = _Kernels("gru_cell", precision, cache)

    def prepare(self) -> None:
        """Compiles and loads the kernels for the current device, so that a launch can be captured into a CUDA graph.

        Raises:
            KernelError: there is no compiler, driver, GPU or context.
        """
        self._kernels.on_current_device()

    def launch(self, batch: int, pointers: Sequence[int], stream: int) -> None:
        """Puts a cell on a stream; allocates nothing and waits for nothing.

        Args:
            batch: B.
            pointers: device addresses of gates, hidden, recurrent_weight, recurrent_bias and next_hidden, each a
                multiple of its type's size; next_hidden may not be hidden.
            stream: a CUDA stream's handle.

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: sizes or addresses that no launch can have.
        """
        plan = plan_gru(self._hidden_size, self._precision, batch)
        arguments = gru_arguments(self._hidden_size, plan, batch, pointers)
        kernel = self._kernels.on_current_device().kernels[plan.tile]
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=False)


class SequenceKernel:
    """``WaveRNNSequencePlugin``'s kernel: one launch is all steps of a chunk."""

    def __init__(
        self, shape: SequenceShape, precision: Precision, cache: KernelCache | None = None, groups: int = 1
    ) -> None:
        """Nothing is compiled yet.

        Args:
            shape: the model.
            precision: of its weights.
            cache: of compiled kernels; the user's unless given.
            groups: groups of blocks that share a batch's streams out, each with a copy of the weights.
        """
        self._shape, self._precision, self._groups = shape, precision, groups
        self._kernels = _Kernels("sequence", precision, cache)

    def prepare(self) -> None:
        """Compiles and loads the kernels for the current device, so that a launch can be captured into a CUDA graph.

        Raises:
            KernelError: there is no compiler, driver, GPU or context.
        """
        self._kernels.on_current_device()

    def plan(self, batch: int) -> SequencePlan:
        """How a batch is put onto the current device.

        Raises:
            KernelError: the grid cannot be resident as a whole, or shared memory does not hold one stream.
        """
        loaded = self._kernels.on_current_device()
        if batch not in loaded.plans:
            plan = plan_sequence(self._shape, self._precision, batch, loaded.device, groups=self._groups)
            blocks = loaded.kernels[plan.tile].blocks_per_multiprocessor(THREADS, plan.shared_bytes)
            require_resident(plan, loaded.device, blocks)
            loaded.plans[batch] = plan
        return loaded.plans[batch]

    def workspace_bytes(self, batch: int, steps: int, window: int) -> int:
        """Bytes of device memory that a launch needs beside its operands, on any device.

        Args:
            batch: B.
            steps: T.
            window: W.
        """
        del steps, window  # only the state of one step is kept
        return lay_out(self._shape, self._precision, batch).total

    def launch(self, batch: int, steps: int, window: int, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Puts a chunk on a stream; allocates nothing and waits for nothing.

        Args:
            batch: B.
            steps: T.
            window: W.
            pointers: device addresses of every input of ``SequenceShape.inputs()``, then of the three outputs, each a
                multiple of its type's size. previous_out and hidden_out may be previous and hidden.
            workspace: device address of as many bytes as `workspace_bytes` says, a multiple of 256.
            stream: a CUDA stream's handle.

        Raises:
            KernelError: as `prepare` and `plan`, or the launch fails.
            ValueError: sizes or addresses that no launch can have.
        """
        plan = self.plan(batch)
        sizes = (batch, steps, window)
        arguments = sequence_arguments(self._shape, self._precision, plan, sizes, pointers, workspace)
        kernel = self._kernels.on_current_device().kernels[plan.tile]
        driver.clear(workspace, plan.groups * COUNTER_BYTES, stream)
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=True)


def require_resident(plan: SequencePlan, device: Device, blocks_per_multiprocessor: int) -> None:
    """Refuses a grid whose blocks cannot all run at once: they wait for each other, and would wait for ever.

    Args:
        plan: the launch.
        device: where.
        blocks_per_multiprocessor: as the driver counts them.

    Raises:
        KernelError: how many blocks there are, and room for how many.
    """
    room = blocks_per_multiprocessor * device.multiprocessors
    if room < plan.grid:
        raise KernelError(
            f"the sequence kernel needs {plan.grid} blocks of {plan.shared_bytes} bytes of shared memory at once, and "
            f"{device.name} (sm_{device.sm}) holds {room} of them: free the GPU of MPS's limits on multiprocessors, "
            "or build the cell form (--form cell)"
        )
