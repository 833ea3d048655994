"""How a chunk is put onto a GPU in the resident kernels: grid, kernel, and which weights stay in shared memory.

Needs no GPU. The kernels multiply on tensor cores, in octets of rows with octets of streams; see kernels/resident.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.sequence_plan import MOST_GROUPS, THREADS, VECTOR_BYTES
from wavernn_trt.plugins.targets import Device

PATCH_ROWS, PATCH_COLUMNS = 8, 32
"""Rows, or streams, and columns that a tensor core's operands come in; see kernels/patch.h."""
MOST_STREAMS = 256
"""Of a batch: what is larger, the stepped kernels decode faster, and the stamped words would take much memory."""
_SUMS_BYTES = 4 * PATCH_ROWS * PATCH_ROWS
_GATES_BYTES = 32 * PATCH_ROWS * PATCH_ROWS
"""Of a set of eight units' waiting gates with eight streams; kernels/resident_stages.h, WaitingGates."""


@dataclass(frozen=True)
class Variant:
    """One of the kernels."""

    stream_octets: int
    """Octets of streams that are computed together: all of a group's."""

    @property
    def streams(self) -> int:
        """Streams that are computed together."""
        return PATCH_ROWS * self.stream_octets


VARIANTS: Mapping[str, Variant] = {
    "resident_stamped_8": Variant(1),
    "resident_stamped_16": Variant(2),
}
"""By the kernel's name."""


@dataclass(frozen=True)
class OctetPlan:
    """One matrix, shared out over the blocks of a group."""

    rows: int
    columns: int
    sets: int
    """Sets that the largest share has: of eight units' three gates, or of eight rows."""
    resident: int
    """How many of a block's sets are copied to shared memory; the others are read from global memory in every step."""
    shared_offset: int
    """Where, in bytes from the beginning of shared memory."""
    set_bytes: int
    """Of one set in shared memory."""


@dataclass(frozen=True)
class ResidentPlan:
    """How a chunk is launched."""

    kernel: str
    """Of `VARIANTS`."""
    groups: int
    """Groups of blocks, each with streams of its own and a copy of the weights."""
    blocks: int
    """Blocks of a group; the grid has ``groups * blocks``, one a multiprocessor."""
    shared_bytes: int
    """Dynamic shared memory of a block."""
    shared_sampler: int
    """Where the sampler's sums lie, in bytes from the beginning of shared memory."""
    shared_logits: int
    """Where the logits of one stream lie."""
    shared_shares: int
    """Where it is kept which sets of each matrix are the block's, and behind it whether the block waits no more."""
    shared_meeting: int
    """Where the warps' sums meet."""
    shared_gates: int
    """Where gates wait for the sample before, or for the layer before."""
    matrices: Mapping[str, OctetPlan]
    """By the names of ``SequenceShape.weight_inputs``."""

    @property
    def variant(self) -> Variant:
        """Of the kernel."""
        return VARIANTS[self.kernel]

    @property
    def grid(self) -> int:
        """Blocks in all."""
        return self.groups * self.blocks

    @property
    def resident_share(self) -> float:
        """The part of the weights that stays in shared memory, 0 to 1; of the block with the largest share."""
        every = sum(matrix.sets * matrix.set_bytes for matrix in self.matrices.values())
        kept = sum(matrix.resident * matrix.set_bytes for matrix in self.matrices.values())
        return kept / every


def plan_resident(
    shape: SequenceShape,
    precision: WeightPrecision,
    batch: int,
    device: Device,
    kernel: str,
    *,
    groups: int = 1,
    blocks: int | None = None,
    warps: int = THREADS // 32,
) -> ResidentPlan:
    """Plans a launch.

    Args:
        shape: the model.
        precision: of its weights; not ``fp32``, which tensor cores do not multiply.
        batch: streams, at least 1.
        device: what it is launched on.
        kernel: of `VARIANTS`.
        groups: groups of blocks that share the streams out.
        blocks: of a group; as many as there are multiprocessors for it, and work for, unless given.
        warps: of a block.

    Raises:
        KernelError: what the kernel needs beside the weights does not fit into shared memory, or it does not take so
            many streams.
        ValueError: sizes that no launch can have.
    """
    sets = _sets(shape)
    most = most_blocks(shape)
    if blocks is None:
        blocks = min(device.multiprocessors // max(groups, 1), most)
    if batch < 1 or not 1 <= groups <= min(MOST_GROUPS, device.multiprocessors) or not 1 <= blocks <= most:
        raise ValueError(
            f"found batch {batch}, {groups} groups and {blocks} blocks, expected a batch of at least 1, 1 to "
            f"{min(MOST_GROUPS, device.multiprocessors)} groups and 1 to {most} blocks, which have work"
        )
    if precision == "fp32":
        raise ValueError("precision: found 'fp32', expected 'fp16', 'bf16' or 'fp8': tensor cores do not multiply it")
    variant = VARIANTS[kernel]
    streams = -(-batch // groups)
    if batch > MOST_STREAMS:
        raise KernelError(f"{kernel} takes a batch of up to {MOST_STREAMS}, found {batch}: take the kernel stepped")
    if streams > variant.streams:
        raise KernelError(
            f"{kernel} takes {variant.streams} streams a group, found {streams}: take "
            f"{-(-batch // variant.streams)} groups, or the kernel stepped"
        )
    used = 0

    def take(size: int) -> int:
        nonlocal used
        offset, used = used, used + -(-size // VECTOR_BYTES) * VECTOR_BYTES
        return offset

    in_turn = 2 if variant.stream_octets == 1 else 1
    waiting = -(-_octets(shape.hidden_size) // blocks)
    sampler, shares, logits = take(warps * 12 + 4), take(8 * len(MATRICES) + 4), take(4 * shape.outputs)
    meeting = take(in_turn * warps * 3 * variant.stream_octets * _SUMS_BYTES)
    gates = take(shape.layers * waiting * variant.stream_octets * _GATES_BYTES)
    if used > device.shared_per_block:
        raise KernelError(
            f"{kernel} needs {used} bytes of shared memory beside the weights, and a block of {device.name} "
            f"(sm_{device.sm}) has {device.shared_per_block}: take fewer groups, so that each has more blocks, a "
            "kernel that computes fewer streams together, or the kernel stepped"
        )
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs()}
    matrices: dict[str, OctetPlan] = {}
    for name, total in sets.items():
        rows, columns = (int(size) for size in shapes[name])
        patches = -(-columns // PATCH_COLUMNS) * (3 if _has_gates(name) else 1)
        set_bytes = patches * PATCH_ROWS * PATCH_COLUMNS * WEIGHT_BYTES[precision]
        share = -(-total // blocks)
        resident = min(share, (device.shared_per_block - used) // set_bytes)
        matrices[name] = OctetPlan(rows, columns, share, resident, used, set_bytes)
        take(resident * set_bytes)
    return ResidentPlan(kernel, groups, blocks, used, sampler, logits, shares, meeting, gates, matrices)


def most_blocks(shape: SequenceShape) -> int:
    """Blocks of a group that have something to do in some stage; a stamped word is safe only where all have."""
    return max(_sets(shape).values())


def _sets(shape: SequenceShape) -> dict[str, int]:
    """How many sets each matrix has."""
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.kind == "weight"}
    rows = {name: int(shapes[name][0]) for name in MATRICES if name in shapes}
    return {name: _octets(size // 3 if _has_gates(name) else size) for name, size in rows.items()}


def _has_gates(name: str) -> bool:
    return name.startswith(("recurrent", "input"))


def _octets(rows: int) -> int:
    return -(-rows // PATCH_ROWS)
