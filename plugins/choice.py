"""What can decode a batch on a device, and in which order the kernels are tried; needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.choice_table import TABLE, Row
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.forms import FORMS, form_of
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident_plan import VARIANTS, ResidentPlan
from wavernn_trt.plugins.sequence_plan import SequencePlan
from wavernn_trt.plugins.stepped_plan import SteppedPlan
from wavernn_trt.plugins.targets import Device

AnyPlan = SequencePlan | ResidentPlan | SteppedPlan

GROUPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of groups of blocks that a measurement tries."""


def candidates(
    shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device
) -> Iterator[tuple[Choice, AnyPlan]]:
    """Every kernel and number of groups that can decode a batch, each with its plan: what a measurement times."""
    for form in FORMS:
        if form.refusal(precision, device) is not None:
            continue
        for kernel in form.kernels:
            for groups in GROUPS if form.has_groups else (1,):
                if groups > min(batch, device.multiprocessors):
                    break
                choice = Choice(kernel, groups)
                try:
                    plan = form.plan(shape, precision, batch, device, choice)
                except KernelError:
                    continue
                yield choice, plan


def choices(
    precision: WeightPrecision, batch: int, device: Device, measured: Sequence[Row] = ()
) -> Iterator[tuple[Choice, bool]]:
    """The kernels of the rows that apply, in the order in which they are tried, and whether each was measured.

    Args:
        precision: of the weights.
        batch: streams.
        device: what they run on.
        measured: rows that come before those of `TABLE`.
    """
    for rows, known in ((measured, True), (TABLE, False)):
        for row in rows:
            if row.applies(device.sm, precision, batch):
                yield Choice(row.kernel, row.groups or fewest_groups(row.kernel, batch)), known


def fewest_groups(kernel: str, batch: int) -> int:
    """Groups of blocks that a kernel needs for a batch."""
    return -(-batch // VARIANTS[kernel].streams) if kernel in VARIANTS else 1


def plan_choice(
    shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device, choice: Choice
) -> AnyPlan:
    """Plans a launch of a kernel.

    Raises:
        KernelError: the kernel does not run on the device, or not with this batch; says why.
    """
    form = form_of(choice.kernel)
    if (reason := form.refusal(precision, device)) is not None:
        raise KernelError(f"{choice.kernel} does not run: {reason}")
    try:
        plan: AnyPlan = form.plan(shape, precision, batch, device, choice)
    except ValueError as error:  # groups that the device or the batch does not have
        raise KernelError(f"{choice}: {error}") from error
    return plan
