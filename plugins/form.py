"""What every kernel that decodes a chunk offers: how it plans, what memory it needs, how it is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.sequence_plan import WAITS
from wavernn_trt.plugins.targets import TENSOR_CORES_FROM, Device


@dataclass(frozen=True)
class Choice:
    """Which kernel decodes a batch, and how the GPU is shared out."""

    kernel: str
    """One of `wavernn_trt.plugins.forms.KERNELS`."""
    groups: int = 1
    """Groups of blocks that share the streams out, each with a copy of the weights."""

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.kernel}, {self.groups} group{'s' * (self.groups > 1)} of blocks"


ChunkSizes = tuple[int, int, int]
"""Streams B, steps T and rows of a window W."""


class Form(Protocol):
    """One way to decode a chunk."""

    @property
    def kernels(self) -> Sequence[str]:
        """What a `Choice` of this form may name."""

    @property
    def has_groups(self) -> bool:
        """Whether its blocks can be shared out in groups."""

    def refusal(self, precision: WeightPrecision, device: Device) -> str | None:
        """Why no kernel of this form runs there, if so."""

    def plan(self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device, choice: Choice) -> Any:
        """Plans a launch; needs no GPU.

        Raises:
            KernelError: the device has not the memory for it.
            ValueError: sizes that no launch can have.
        """

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        """Bytes of device memory that a launch needs beside its operands, on any device."""

    def check(self, kernels: LoadedKernels, plan: Any) -> None:
        """Loads what the plan needs, and refuses what cannot run on the device at hand.

        Raises:
            KernelError: there is no compiler, or the device does not hold the grid.
        """

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: Any,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        """Puts a chunk on a stream; see `wavernn_trt.plugins.launch.SequenceKernel.launch`."""


def refusal_by_tensor_cores(precision: WeightPrecision, device: Device) -> str | None:
    """Why tensor cores do not multiply weights of a precision on a device, if so."""
    if precision == "fp32":
        return "tensor cores have no fp32"
    if device.sm < TENSOR_CORES_FROM:
        return f"it needs compute capability {TENSOR_CORES_FROM / 10:.1f}, and {device.name} has {device.sm / 10:.1f}"
    return None


class CooperativePlan(Protocol):
    """Of a grid whose blocks wait for each other."""

    @property
    def grid(self) -> int:
        """Blocks in all."""

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""


def require_resident(plan: CooperativePlan, device: Device, blocks_per_multiprocessor: int) -> None:
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
            f"the kernel needs {plan.grid} blocks of {plan.shared_bytes} bytes of shared memory at once, and "
            f"{device.name} (sm_{device.sm}) holds {room} of them: free the GPU of MPS's limits on multiprocessors, "
            "or build the cell form (--form cell)"
        )
