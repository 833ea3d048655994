"""The resident kernels: one launch for all steps, products on tensor cores, weights in shared memory.

They multiply octets of rows with octets of streams, and exchange stamped words; see kernels/resident.h.
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
    Offsets,
    ResidentArguments,
    chunk_arguments,
    has_gates,
    matrix_argument,
)
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, refusal_by_tensor_cores, require_resident
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import DeviceProperties

MOST_STREAMS = 256
"""Of a batch: what is larger, the stepped kernels decode faster, and the stamped words would take much memory."""
_ALIGNMENT = 256
_WORD_BYTES = 8
"""A word and its stamp."""
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
    def grid(self) -> int:
        """Blocks in all."""
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
    shared = Offsets(VECTOR_BYTES)
    take = shared.take
    in_turn = 2 if variant.stream_octets == 1 else 1
    waiting = -(-_octets(shape.hidden_size) // blocks)
    sampler, shares, logits = take(warps * 12 + 4), take(8 * len(MATRICES) + 4), take(4 * shape.outputs)
    meeting = take(in_turn * warps * 3 * variant.stream_octets * _SUMS_BYTES)
    gates = take(shape.layers * waiting * variant.stream_octets * _GATES_BYTES)
    if shared.used > device.shared_per_block:
        raise KernelError(
            f"{kernel} needs {shared.used} bytes of shared memory beside the weights, and a block of {device.name} "
            f"(sm_{device.sm}) has {device.shared_per_block}: take fewer groups, so that each has more blocks, a "
            "kernel that computes fewer streams together, or the kernel stepped"
        )
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs()}
    matrices: dict[str, OctetPlan] = {}
    for name, total in sets.items():
        rows, columns = (int(size) for size in shapes[name])
        patches = -(-columns // PATCH_COLUMNS) * (3 if has_gates(name) else 1)
        set_bytes = patches * PATCH_ROWS * PATCH_COLUMNS * WEIGHT_BYTES[precision]
        share = -(-total // blocks)
        resident = min(share, (device.shared_per_block - shared.used) // set_bytes)
        matrices[name] = OctetPlan(rows, columns, share, resident, shared.used, set_bytes)
        take(resident * set_bytes)
    return ResidentPlan(kernel, groups, blocks, shared.used, sampler, logits, shares, meeting, gates, matrices)


def most_blocks(shape: SequenceShape) -> int:
    """Blocks of a group that have something to do in some stage; a stamped word is safe only where all have."""
    return max(_sets(shape).values())


def _sets(shape: SequenceShape) -> dict[str, int]:
    """How many sets each matrix has."""
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.kind == "weight"}
    rows = {name: int(shapes[name][0]) for name in MATRICES if name in shapes}
    return {name: _octets(size // 3 if has_gates(name) else size) for name, size in rows.items()}


def _octets(rows: int) -> int:
    return -(-rows // PATCH_ROWS)


@dataclass(frozen=True)
class Mail:
    """Where each kind of words begins, counted in words; each is there twice, for even and odd steps."""

    states: tuple[int, ...]
    features: tuple[int, ...]
    activations: tuple[int, ...]
    logits: int
    previous: int
    words: int
    """In all."""


@dataclass(frozen=True)
class ResidentWorkspace:
    """Offsets in bytes from the beginning; counters come first, and the mail behind them."""

    mail: int
    cleared: int
    """Bytes from the beginning on that are to be zero before each launch."""
    skipped: int
    total: int
    """Bytes in all."""


def lay_out_mail(shape: SequenceShape, batch: int) -> Mail:
    """The words that a batch's blocks exchange."""
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
    """Where a batch's buffers lie, on any device."""
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
    """What a resident kernel is launched with.

    Args:
        shape: the model.
        precision: of its weights.
        plan: of this batch.
        sizes: streams B, steps T, rows of a window W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``, and in ``fp8`` then of each
            weight's scales.
        workspace: address of as many bytes as `lay_out_resident` says.
        waits: how often a thread looks for what has not come before it gives up.
        all_logits: address of float32 [B, T, outputs], where every step's logits are to be kept.

    Raises:
        ValueError: another number of pointers, a size below 1, or a workspace that is not aligned.
    """
    scaled = [name for name in MATRICES if name in plan.matrices] if precision == "fp8" else []
    operands = len(pointers) - len(scaled)
    common, address = chunk_arguments(shape, sizes, pointers[:operands], workspace, all_logits)
    layout, mail = lay_out_resident(shape, sizes[0]), lay_out_mail(shape, sizes[0])
    common.counters = workspace
    common.skipped = workspace + layout.skipped if shape.skip else None
    common.groups, common.blocks, common.waits = plan.groups, plan.blocks, waits
    common.shared_sampler = plan.shared_sampler
    for i, name in enumerate(MATRICES):
        if name in plan.matrices:
            one = plan.matrices[name]
            common.matrices[i] = matrix_argument(address, name, one.rows, one.columns, one.resident, one.shared_offset)
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
    """One launch for all steps, products on tensor cores."""

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
        require_resident(plan, kernels.device, kernel.blocks_per_multiprocessor(THREADS, plan.shared_bytes))

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
