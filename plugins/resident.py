"""The resident kernels: one launch for all steps, products on tensor cores, weights in shared memory.

They multiply octets (eight rows of a matrix by eight streams) and exchange stamped words; see kernels/resident.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.arguments import (
    COUNTER_BYTES,
    MATRICES,
    MOST_GROUPS,
    PATCH_COLUMNS,
    PATCH_ROWS,
    THREADS,
    VECTOR_BYTES,
    ChunkSizes,
    MatrixPlan,
    Offsets,
    ResidentArguments,
    chunk_arguments,
    has_gates,
    set_matrix,
)
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, refusal_by_tensor_cores, require_resident
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import DeviceProperties

MOST_STREAMS = 256
"""Largest batch. For larger ones the stepped kernels are faster, and the stamped words would need much memory."""
_ALIGNMENT = 256
_WORD_BYTES = 8
"""A word and its stamp."""
_SUMS_BYTES = 4 * PATCH_ROWS * PATCH_ROWS
_GATES_BYTES = 32 * PATCH_ROWS * PATCH_ROWS
"""Gates of eight units and eight streams that wait for their input; WaitingGates in kernels/resident_stages.h."""


@dataclass(frozen=True)
class Variant:
    """One of the kernels."""

    stream_octets: int
    """Octets of streams that a group computes together; a group has no more streams."""

    @property
    def streams(self) -> int:
        """Maximum number of streams of a group."""
        return PATCH_ROWS * self.stream_octets


VARIANTS: Mapping[str, Variant] = {"resident_stamped_8": Variant(1), "resident_stamped_16": Variant(2)}
"""The kernels by name."""


@dataclass(frozen=True)
class ResidentPlan:
    """Launch configuration of a chunk. Fields ``shared_*`` but ``shared_bytes`` are byte offsets in shared memory."""

    kernel: str
    """One of `VARIANTS`."""
    groups: int
    """Groups of blocks; each decodes a part of the streams with its own copy of the weights."""
    blocks: int
    """Blocks of a group; the grid has ``groups * blocks``, one for each multiprocessor."""
    shared_bytes: int
    """Dynamic shared memory of a block."""
    shared_sampler: int
    """Sums of the sampler."""
    shared_logits: int
    """Logits of one stream."""
    shared_shares: int
    """The block's share of the sets of each matrix, then the flag that the block has stopped waiting."""
    shared_meeting: int
    """Partial sums of the warps."""
    shared_gates: int
    """Gates that wait for the previous sample or for the previous layer."""
    matrices: Mapping[str, MatrixPlan]
    """Plans by operand name. A set has the three gates of eight units, or eight rows."""

    @property
    def grid(self) -> int:
        """Total number of blocks."""
        return self.groups * self.blocks


def plan_resident(
    shape: SequenceShape,
    precision: WeightPrecision,
    batch: int,
    device: DeviceProperties,
    kernel: str,
    *,
    groups: int = 1,
    blocks: int | None = None,
    warps: int = THREADS // 32,
) -> ResidentPlan:
    """Plans a launch.

    Args:
        shape: the model.
        precision: precision of its weights; not ``fp32``, which tensor cores do not multiply.
        batch: number of streams, at least 1.
        device: the GPU.
        kernel: one of `VARIANTS`.
        groups: groups of blocks among which the streams are divided.
        blocks: blocks of a group; default: one for each multiprocessor of the group, at most `most_blocks`.
        warps: warps of a block.

    Raises:
        KernelError: too many streams for the kernel, or its buffers do not fit into shared memory.
        ValueError: invalid sizes.
    """
    sets = _sets(shape)
    most = most_blocks(shape)
    if blocks is None:
        blocks = min(device.multiprocessors // max(groups, 1), most)
    if batch < 1 or not 1 <= groups <= min(MOST_GROUPS, device.multiprocessors) or not 1 <= blocks <= most:
        raise ValueError(
            f"found batch {batch}, {groups} groups and {blocks} blocks, expected a batch of at least 1, 1 to "
            f"{min(MOST_GROUPS, device.multiprocessors)} groups and 1 to {most} blocks"
        )
    if precision == "fp32":
        raise ValueError("precision: found 'fp32', expected 'fp16', 'bf16' or 'fp8': tensor cores do not multiply it")
    variant = VARIANTS[kernel]
    streams = -(-batch // groups)
    if batch > MOST_STREAMS:
        raise KernelError(f"{kernel} takes a batch of up to {MOST_STREAMS}, found {batch}: use the kernel stepped")
    if streams > variant.streams:
        raise KernelError(
            f"{kernel} takes {variant.streams} streams a group, found {streams}: use "
            f"{-(-batch // variant.streams)} groups, or the kernel stepped"
        )
    shared = Offsets(VECTOR_BYTES)
    take = shared.take
    buffers = 2 if variant.stream_octets == 1 else 1  # MeetingPlace in kernels/patch_product.h
    waiting = -(-_octets(shape.hidden_size) // blocks)
    sampler, shares, logits = take(warps * 12 + 4), take(8 * len(MATRICES) + 4), take(4 * shape.outputs)
    meeting = take(buffers * warps * 3 * variant.stream_octets * _SUMS_BYTES)
    gates = take(shape.layers * waiting * variant.stream_octets * _GATES_BYTES)
    if shared.used > device.shared_per_block:
        raise KernelError(
            f"{kernel} needs {shared.used} bytes of shared memory beside the weights, and a block of {device.name} "
            f"(sm_{device.sm}) has {device.shared_per_block}: use fewer groups, so that each has more blocks, a "
            "kernel that computes fewer streams together, or the kernel stepped"
        )
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs()}
    matrices: dict[str, MatrixPlan] = {}
    for name, total in sets.items():
        rows, columns = (int(size) for size in shapes[name])
        set_rows = PATCH_ROWS * (3 if has_gates(name) else 1)
        set_bytes = set_rows * -(-columns // PATCH_COLUMNS) * PATCH_COLUMNS * WEIGHT_BYTES[precision]
        share = -(-total // blocks)
        resident = min(share, (device.shared_per_block - shared.used) // set_bytes)
        matrices[name] = MatrixPlan(rows, columns, set_rows, share, resident, shared.used, set_bytes)
        take(resident * set_bytes)
    return ResidentPlan(kernel, groups, blocks, shared.used, sampler, logits, shares, meeting, gates, matrices)


def most_blocks(shape: SequenceShape) -> int:
    """Returns the maximum number of blocks of a group.

    Each block must have work in at least one stage of a step: otherwise it could overwrite a stamped word too early.
    """
    return max(_sets(shape).values())


def _sets(shape: SequenceShape) -> dict[str, int]:
    """Returns the number of sets of each matrix."""
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.kind == "weight"}
    rows = {name: int(shapes[name][0]) for name in MATRICES if name in shapes}
    return {name: _octets(size // 3 if has_gates(name) else size) for name, size in rows.items()}


def _octets(rows: int) -> int:
    return -(-rows // PATCH_ROWS)


@dataclass(frozen=True)
class Mail:
    """Offsets, in words, of the words that blocks exchange; each kind is stored twice, for even and odd steps."""

    states: tuple[int, ...]
    features: tuple[int, ...]
    activations: tuple[int, ...]
    logits: int
    previous: int
    words: int
    """Total number of words."""


@dataclass(frozen=True)
class ResidentWorkspace:
    """Byte offsets of the buffers in the workspace, which begins with the counters."""

    mail: int
    cleared: int
    """Bytes at the beginning that must be zero before each launch: counters and mail."""
    skipped: int
    total: int
    """Size of the workspace."""


def lay_out_mail(shape: SequenceShape, batch: int) -> Mail:
    """Lays out the words that the blocks exchange for a batch."""
    offsets = Offsets(_ALIGNMENT)

    def take(words_a_stream: int) -> int:
        return offsets.take(2 * batch * words_a_stream)

    def pairs(columns: int) -> int:
        return -(-columns // PATCH_COLUMNS) * PATCH_COLUMNS // 2

    states = tuple(take(pairs(shape.hidden_size)) for _ in range(shape.layers))
    features = tuple(take(pairs(shape.hidden_size)) for _ in range(shape.layers if shape.skip else 0))
    activations = tuple(take(pairs(size)) for size in shape.fc_sizes)
    logits, previous = take(-(-shape.outputs // 4) * 4), take(1)
    return Mail(states, features, activations, logits, previous, offsets.used)


def lay_out_resident(shape: SequenceShape, batch: int) -> ResidentWorkspace:
    """Lays out the workspace of a batch, the same on all devices."""
    counters = MOST_GROUPS * COUNTER_BYTES
    words = lay_out_mail(shape, batch).words
    skipped = counters + words * _WORD_BYTES
    total = skipped + (4 * batch * shape.hidden_size if shape.skip else 0)
    return ResidentWorkspace(counters, skipped, skipped, total)


def resident_arguments(
    shape: SequenceShape,
    precision: WeightPrecision,
    plan: ResidentPlan,
    sizes: ChunkSizes,
    pointers: Sequence[int],
    workspace: int,
    *,
    waits: int = WAITS,
    all_logits: int | None = None,
) -> ResidentArguments:
    """Returns the arguments of a launch.

    Args:
        shape: the model.
        precision: precision of its weights.
        plan: the plan for this batch.
        sizes: streams B, steps T, window rows W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``; with ``fp8`` then of the scales
            of each weight.
        workspace: address of the workspace; see `lay_out_resident`.
        waits: maximum number of polls of a waiting thread.
        all_logits: address of float32 [B, T, outputs] for the logits of all steps; None keeps none.

    Raises:
        ValueError: wrong number of pointers, a size below 1, or a workspace that is not aligned.
    """
    scaled = [name for name in MATRICES if name in plan.matrices] if precision == "fp8" else []
    operands = len(pointers) - len(scaled)
    common, address = chunk_arguments(shape, sizes, pointers[:operands], workspace, all_logits)
    layout, mail = lay_out_resident(shape, sizes[0]), lay_out_mail(shape, sizes[0])
    common.counters = workspace
    common.skipped = workspace + layout.skipped if shape.skip else None
    common.groups, common.blocks, common.waits = plan.groups, plan.blocks, waits
    common.shared_sampler = plan.shared_sampler
    for name, matrix in plan.matrices.items():
        set_matrix(common, address, name, (matrix.rows, matrix.columns), matrix.resident, matrix.shared_offset)
    arguments = ResidentArguments(
        s=common,
        mail=workspace + layout.mail,
        mail_logits=mail.logits,
        mail_previous=mail.previous,
        shared_meeting=plan.shared_meeting,
        shared_gates=plan.shared_gates,
        shared_logits=plan.shared_logits,
        shared_shares=plan.shared_shares,
        most_sets=plan.matrices[MATRICES[0]].sets,
    )
    for field in ("states", "features", "activations"):
        for i, offset in enumerate(getattr(mail, field)):
            getattr(arguments, f"mail_{field}")[i] = offset
    for name, scales in zip(scaled, pointers[operands:], strict=True):
        arguments.scales[MATRICES.index(name)] = scales
    return arguments


class ResidentFamily:
    """One launch for all steps of a chunk, products on tensor cores."""

    kernels = tuple(VARIANTS)
    has_groups = True

    def refusal(self, precision: WeightPrecision, device: DeviceProperties) -> str | None:
        return refusal_by_tensor_cores(precision, device)

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
    ) -> ResidentPlan:
        return plan_resident(shape, precision, batch, device, choice.kernel, groups=choice.groups)

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        return 0 if precision == "fp32" or batch > MOST_STREAMS else lay_out_resident(shape, batch).total

    def check(self, kernels: LoadedKernels, plan: ResidentPlan) -> None:
        kernel = kernels.get("resident", plan.kernel)
        fitting = kernel.blocks_per_multiprocessor(THREADS, plan.shared_bytes)
        require_resident(plan.grid, plan.shared_bytes, kernels.device, fitting)

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: ResidentPlan,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        arguments = resident_arguments(shape, precision, plan, sizes, pointers, workspace, waits=waits)
        layout = lay_out_resident(shape, sizes[0])
        driver.fill(workspace, 0, layout.cleared, stream)
        kernel = kernels.get("resident", plan.kernel)
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=True)
