"""Which kernel decodes a batch: what was measured on this GPU decides, and until then a count of cycles."""

from __future__ import annotations

from collections.abc import Iterator

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.forms import FORMS
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.resident_plan import PATCH_COLUMNS, VARIANTS, ResidentPlan
from wavernn_trt.plugins.sequence_plan import SequencePlan
from wavernn_trt.plugins.stepped_plan import SteppedPlan
from wavernn_trt.plugins.targets import Device

AnyPlan = SequencePlan | ResidentPlan | SteppedPlan

GROUPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""How many groups of blocks are tried."""

_CLOCK = 1.7e3
"""Cycles in a microsecond."""
_BARRIER, _STAMPED_WORD, _LAUNCH = 2.0, 0.8, 2.5
"""Microseconds for all blocks of a group to hear of each other, at a barrier or by stamped words; and from one launch
of a CUDA graph to the next."""
_SHARED_BYTES, _GLOBAL_BYTES = 128, 32
"""What a multiprocessor reads in a cycle, from shared memory and from the second-level cache."""
_TENSOR_PRODUCTS, _PLAIN_PRODUCTS = 1024, 64
"""Multiplications with addition that it makes in a cycle, on tensor cores and without."""


def candidates(
    shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device
) -> Iterator[tuple[Choice, AnyPlan]]:
    """What can decode a batch on a device, each with its plan; needs no GPU."""
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


def refusals(shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device) -> Iterator[str]:
    """Why nothing decodes a batch on a device, in words."""
    for form in FORMS:
        reason = form.refusal(precision, device)
        try:
            if reason is None:
                form.plan(shape, precision, batch, device, Choice(form.kernels[0]))
        except KernelError as error:
            reason = str(error)
        if reason is not None:
            yield f"{form.kernels[0]}: {reason}"


def estimate(shape: SequenceShape, precision: WeightPrecision, batch: int, plan: AnyPlan, device: Device) -> float:
    """Microseconds of a step, counted and not measured: good for an order among plans, and for nothing else.

    Args:
        shape: the model.
        precision: of its weights.
        batch: streams.
        plan: of one of `candidates`.
        device: that it is for.
    """
    if isinstance(plan, SteppedPlan):
        return _estimate_stepped(shape, precision, plan, device)
    streams = -(-batch // plan.groups)
    stages = shape.layers + len(shape.fc_sizes) + 1
    kept = sum(one.resident * one.set_bytes for one in plan.matrices.values())
    share = sum(one.sets * one.set_bytes for one in plan.matrices.values())
    products = streams * share / WEIGHT_BYTES[precision]
    columns = sum(one.columns for one in plan.matrices.values())
    if isinstance(plan, SequencePlan):
        tiles = -(-streams // plan.tile)
        operands = 2 * streams * columns / _GLOBAL_BYTES
        cycles = tiles * (kept / _SHARED_BYTES + (share - kept) / _GLOBAL_BYTES) + operands
        return (stages + 1) * _BARRIER + (cycles + products / _PLAIN_PRODUCTS) / _CLOCK
    variant = VARIANTS[plan.kernel]
    tiles = -(-streams // variant.streams)
    word = _STAMPED_WORD if variant.stamped else _BARRIER
    operands = (4 if variant.stamped else 2) * streams * columns / _GLOBAL_BYTES
    padded = products / streams * tiles * variant.streams
    reading = tiles * (kept / _SHARED_BYTES + (share - kept) / _GLOBAL_BYTES)
    told = 0 if variant.stamped and streams == 1 else 1
    return (stages + told) * word + (max(reading, padded / _TENSOR_PRODUCTS) + operands) / _CLOCK


def _estimate_stepped(shape: SequenceShape, precision: WeightPrecision, plan: SteppedPlan, device: Device) -> float:
    columns = {operand.name: operand.shape[-1] for operand in shape.weight_inputs()}
    cycles = 0.0
    for stage in plan.stages:
        if stage.tile is None:
            continue
        patches = sum(-(-int(columns[name]) // PATCH_COLUMNS) for name in stage.matrices)
        products = stage.tile.rows * stage.tile.streams * PATCH_COLUMNS / _TENSOR_PRODUCTS
        reading = stage.tile.slot_bytes(precision) / _GLOBAL_BYTES
        turns = -(-stage.grid // device.multiprocessors)
        cycles += turns * patches * max(products, reading)
    return len(plan.stages) * _LAUNCH + cycles / _CLOCK
