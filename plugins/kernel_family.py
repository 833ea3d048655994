"""The protocol of a kernel family: kernels that decode chunks, with one way to plan and launch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.arguments import ChunkSizes
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import TENSOR_CORES_FROM, DeviceProperties


@dataclass(frozen=True)
class Choice:
    """The kernel that decodes a batch, and its number of groups."""

    kernel: str
    """One of `wavernn_trt.plugins.choices.KERNELS`."""
    groups: int = 1
    """Groups of blocks; each decodes a part of the streams with its own copy of the weights."""

    def __str__(self) -> str:
        """For messages."""
        return f"{self.kernel}, {self.groups} group{'s' * (self.groups > 1)} of blocks"


class KernelFamily(Protocol):
    """Kernels that decode chunks in one way; `wavernn_trt.plugins.choices.FAMILIES` lists all families."""

    @property
    def kernels(self) -> Sequence[str]:
        """Names of the kernels, for `Choice.kernel`."""

    @property
    def has_groups(self) -> bool:
        """Whether the blocks can work in several groups."""

    def refusal(self, precision: WeightPrecision, device: DeviceProperties) -> str | None:
        """The reason why no kernel of this family runs there, if there is one."""

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
    ) -> Any:
        """Plans a launch; needs no GPU.

        Raises:
            KernelError: the device has not the memory for it.
            ValueError: sizes that no launch can have.
        """

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        """Bytes of device memory that a launch needs beside its operands, on any device."""

    def check(self, kernels: LoadedKernels, plan: Any) -> None:
        """Loads the plan's kernels, and checks that they run on the current device.

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


def refusal_by_tensor_cores(precision: WeightPrecision, device: DeviceProperties) -> str | None:
    """The reason why tensor cores cannot multiply weights of a precision on a device, if there is one."""
    if precision == "fp32":
        return "tensor cores have no fp32"
    if device.sm < TENSOR_CORES_FROM:
        return f"it needs compute capability {TENSOR_CORES_FROM / 10:.1f}, and {device.name} has {device.sm / 10:.1f}"
    return None


class CooperativePlan(Protocol):
    """A plan whose blocks wait for each other."""

    @property
    def grid(self) -> int:
        """Blocks."""

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""


def require_resident(plan: CooperativePlan, device: DeviceProperties, blocks_per_multiprocessor: int) -> None:
    """Checks that all blocks of a grid fit on the device at once: they wait for each other.

    Args:
        plan: the launch.
        device: the current one.
        blocks_per_multiprocessor: resident blocks, from the driver.

    Raises:
        KernelError: they do not; says how many blocks there are and how many fit.
    """
    room = blocks_per_multiprocessor * device.multiprocessors
    if room < plan.grid:
        raise KernelError(
            f"the kernel needs {plan.grid} blocks of {plan.shared_bytes} bytes of shared memory at once, and "
            f"{device.name} (sm_{device.sm}) holds {room} of them: free the GPU of MPS's limits on multiprocessors, "
            "or build the cell form (--form cell)"
        )
