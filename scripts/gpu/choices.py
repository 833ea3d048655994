"""Which kernels run in a precision, and the ways to share a GPU out among their blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.choices import KERNELS, family_of
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.targets import DeviceProperties

GROUPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of groups of blocks that are tried."""
ANY_GPU = DeviceProperties.of("any", 90, 132)
"""A GPU that runs every kernel."""
PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8", "fp32")
"""In the order of their importance."""


def kernels_with(precision: WeightPrecision) -> list[str]:
    """Kernels that have a precision on some GPU."""
    return [kernel for kernel in KERNELS if family_of(kernel).refusal(precision, ANY_GPU) is None]


def choices_of(
    kernel: str, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties
) -> Iterator[tuple[Choice, Any]]:
    """Yields every number of groups with which a kernel decodes a batch on a device, each with its plan.

    Needs no GPU; yields nothing where the kernel does not run there.
    """
    form = family_of(kernel)
    if form.refusal(precision, device) is not None:
        return
    for groups in GROUPS if form.has_groups else (1,):
        if groups > min(batch, device.multiprocessors):
            return
        choice = Choice(kernel, groups)
        try:
            yield choice, form.plan(shape, precision, batch, device, choice)
        except KernelError:
            continue
