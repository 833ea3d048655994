"""The protocol of a kernel family: kernels that decode chunks and are planned and launched in the same way."""

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
        return f"{self.kernel}, {self.groups} group{'s' * (self.groups > 1)} of blocks"


class KernelFamily(Protocol):
    """Kernels that are planned and launched in the same way; see `wavernn_trt.plugins.choices.FAMILIES`."""

    @property
    def kernels(self) -> Sequence[str]:
        """Names of the kernels, the values of `Choice.kernel`."""

    @property
    def has_groups(self) -> bool:
        """Whether the blocks can form several groups."""

    def refusal(self, precision: WeightPrecision, device: DeviceProperties) -> str | None:
        """Returns why no kernel of this family runs with this precision on this device; None if they run."""

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
    ) -> Any:
        """Plans a launch; needs no GPU.

        Raises:
            KernelError: the device does not have enough memory.
            ValueError: invalid sizes.
        """

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        """Returns the size of the workspace of a launch, the same on all devices; 0 if the family does not run."""

    def check(self, kernels: LoadedKernels, plan: Any) -> None:
        """Loads the kernels of a plan and checks that they run on the current device.

        Raises:
            KernelError: there is no compiler, or the grid does not fit on the device.
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
        """Enqueues a chunk on a stream; see `wavernn_trt.plugins.launch.SequenceKernel.launch`."""


def refusal_by_tensor_cores(precision: WeightPrecision, device: DeviceProperties) -> str | None:
    """Returns why the tensor cores of a device cannot multiply weights of a precision; None if they can."""
    if precision == "fp32":
        return "tensor cores have no fp32"
    if device.sm < TENSOR_CORES_FROM:
        return f"it needs compute capability {TENSOR_CORES_FROM / 10:.1f}, and {device.name} has {device.sm / 10:.1f}"
    return None


def require_resident(grid: int, shared_bytes: int, device: DeviceProperties, blocks_per_multiprocessor: int) -> None:
    """Checks that all blocks of a grid fit on the device at once, which is necessary where blocks wait for each other.

    Args:
        grid: number of blocks.
        shared_bytes: dynamic shared memory of a block.
        device: the current device.
        blocks_per_multiprocessor: maximum of resident blocks, from the driver.

    Raises:
        KernelError: they do not fit.
    """
    fitting = blocks_per_multiprocessor * device.multiprocessors
    if fitting < grid:
        raise KernelError(
            f"the kernel needs {grid} blocks of {shared_bytes} bytes of shared memory at once, and {device.name} "
            f"(sm_{device.sm}) holds {fitting} of them: remove the limits of MPS on multiprocessors, or build the cell "
            "form (--form cell)"
        )
