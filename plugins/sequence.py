"""The sequence kernels: one launch for all steps, on any GPU, in fp32, fp16 and bf16; see kernels/sequence.h."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import Precision, SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.arguments import (
    COUNTER_BYTES,
    MATRICES,
    MOST_GROUPS,
    THREADS,
    VECTOR_BYTES,
    ChunkSizes,
    Offsets,
    SequenceArguments,
    chunk_arguments,
    has_gates,
    matrix_argument,
)
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, require_resident
from wavernn_trt.plugins.loaded_kernels import LoadedKernel, LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision, engine_precision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import DeviceProperties

TILES = (8, 4, 1)
"""Streams that are computed together: a kernel for each."""
NUMBER_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2}
_ALIGNMENT = 256
_WARPS = THREADS // 32


@dataclass(frozen=True)
class MatrixPlan:
    """One matrix, shared out over the blocks of a group."""

    rows: int
    columns: int
    set_rows: int
    """Rows that stay together: a unit's three gates, or as many neighbours as a warp takes at a time."""
    sets: int
    """Sets of rows that the largest share has."""
    resident: int
    """How many of a block's sets are copied to shared memory; the others are read from global memory in every step."""
    shared_offset: int
    """Where, in bytes from the beginning of shared memory."""
    set_bytes: int
    """Of one set in shared memory."""


@dataclass(frozen=True)
class SequencePlan:
    """How a chunk is launched."""

    tile: int
    """Streams that are computed together; see `TILES`."""
    groups: int
    """Groups of blocks, each with streams of its own and a copy of the weights."""
    blocks: int
    """Blocks of a group; the grid has ``groups * blocks``, one a multiprocessor."""
    shared_bytes: int
    """Dynamic shared memory of a block."""
    shared_operands: int
    """Where the tile's operands lie, in bytes from the beginning of shared memory."""
    shared_sampler: int
    """Where the sampler's sums lie, and behind them whether the block waits no more."""
    matrices: Mapping[str, MatrixPlan]
    """By the names of ``SequenceShape.weight_inputs``."""

    @property
    def grid(self) -> int:
        """Blocks in all."""
        return self.groups * self.blocks


def plan_sequence(
    shape: SequenceShape,
    precision: Precision,
    batch: int,
    device: DeviceProperties,
    *,
    groups: int = 1,
    blocks: int | None = None,
    warps: int = _WARPS,
) -> SequencePlan:
    """Plans a launch.

    Args:
        shape: the model.
        precision: of its weights.
        batch: streams, at least 1.
        device: what it is launched on.
        groups: groups of blocks that share the streams out.
        blocks: of a group; as many as there are multiprocessors for it unless given.
        warps: of a block.

    Raises:
        KernelError: not even one stream's operands fit into shared memory.
        ValueError: sizes that no launch can have.
    """
    if batch < 1 or not 1 <= groups <= min(MOST_GROUPS, device.multiprocessors) or (blocks is not None and blocks < 1):
        raise ValueError(
            f"found batch {batch}, {groups} groups and {blocks} blocks, expected a batch of at least 1 and 1 to "
            f"{min(MOST_GROUPS, device.multiprocessors)} groups of at least one block"
        )
    sampler_bytes = _round_up(warps * 12 + 8, VECTOR_BYTES)
    streams = -(-batch // groups)
    wanted = min((tile for tile in TILES if tile >= streams), default=max(TILES))
    fitting = [
        tile
        for tile in TILES
        if tile <= wanted and _operand_bytes(shape, precision, tile) + sampler_bytes <= device.shared_per_block
    ]
    if not fitting:
        raise KernelError(
            f"one stream's operands take {_operand_bytes(shape, precision, 1)} bytes of shared memory in {precision}, "
            f"and a block of {device.name} (sm_{device.sm}) has {device.shared_per_block}: build the cell form of this "
            "model (--form cell), or take a lower precision"
        )
    tile = fitting[0]
    sets = dict(_sets(shape, tile))
    most = max(total for _, _, _, total in sets.values())
    if blocks is None:
        blocks = min(device.multiprocessors // groups, most)
    offset = _operand_bytes(shape, precision, tile) + sampler_bytes
    matrices: dict[str, MatrixPlan] = {}
    for name, (rows, columns, set_rows, total) in sets.items():
        set_bytes = set_rows * padded(columns, precision) * NUMBER_BYTES[precision]
        share = -(-total // blocks)
        resident = min(share, (device.shared_per_block - offset) // set_bytes)
        matrices[name] = MatrixPlan(rows, columns, set_rows, share, resident, offset, set_bytes)
        offset += resident * set_bytes
    return SequencePlan(
        tile=tile,
        groups=groups,
        blocks=blocks,
        shared_bytes=offset,
        shared_operands=sampler_bytes,
        shared_sampler=0,
        matrices=matrices,
    )


def padded(columns: int, precision: Precision) -> int:
    """Numbers from one row to the next, where rows are padded to whole vectors."""
    return _round_up(columns, VECTOR_BYTES // NUMBER_BYTES[precision])


def _sets(shape: SequenceShape, tile: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Each matrix: its name; rows, columns, rows of a set, sets."""
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.kind == "weight"}
    for name in MATRICES:
        if name in shapes:
            rows, columns = (int(size) for size in shapes[name])
            set_rows = 3 if has_gates(name) else min(tile, 2)
            yield name, (rows, columns, set_rows, -(-rows // set_rows))


def _operand_bytes(shape: SequenceShape, precision: Precision, tile: int) -> int:
    """Of a tile's operands, in the stage that has most of them."""
    widest = max(padded(size, precision) for size in (shape.hidden_size, *shape.fc_sizes))
    numbers = max(shape.layers * padded(shape.hidden_size, precision), widest)
    return tile * numbers * NUMBER_BYTES[precision]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class SequenceWorkspace:
    """Offsets in bytes from the beginning; counters come first."""

    counter_bytes: int
    """To be cleared before each launch."""
    states: tuple[int, ...]
    features: tuple[int, ...]
    skipped: int
    activations: tuple[int, ...]
    logits: int
    total: int
    """Bytes in all."""


def lay_out_sequence(shape: SequenceShape, precision: Precision, batch: int) -> SequenceWorkspace:
    """Where a batch's buffers lie, on any device."""
    offsets = Offsets(_ALIGNMENT)
    take = offsets.take

    def row_bytes(columns: int) -> int:
        return padded(columns, precision) * NUMBER_BYTES[precision]

    counter_bytes = MOST_GROUPS * COUNTER_BYTES
    take(counter_bytes)
    states = tuple(take(2 * batch * row_bytes(shape.hidden_size)) for _ in range(shape.layers))
    kept = range(shape.layers if shape.skip else 0)
    features = tuple(take(batch * row_bytes(shape.hidden_size)) for _ in kept)
    skipped = take(4 * batch * shape.hidden_size if shape.skip else 0)
    activations = tuple(take(batch * row_bytes(size)) for size in shape.fc_sizes)
    logits = take(4 * batch * shape.outputs)
    return SequenceWorkspace(counter_bytes, states, features, skipped, activations, logits, offsets.used)


def sequence_arguments(
    shape: SequenceShape,
    precision: Precision,
    plan: SequencePlan,
    sizes: ChunkSizes,
    pointers: Sequence[int],
    workspace: int,
    *,
    waits: int = WAITS,
    all_logits: int | None = None,
) -> SequenceArguments:
    """What a sequence kernel is launched with.

    Args:
        shape: the model.
        precision: of its weights.
        plan: of this batch.
        sizes: streams B, steps T, rows of a window W.
        pointers: addresses of ``shape.inputs()`` and then of ``shape.outputs_of_node()``.
        workspace: address of as many bytes as `lay_out_sequence` says.
        waits: how often a block looks for the others before it gives up.
        all_logits: address of float32 [B, T, outputs], where every step's logits are to be kept.

    Raises:
        ValueError: another number of pointers, a size below 1, or a workspace that is not aligned.
    """
    arguments, address = chunk_arguments(shape, sizes, pointers, workspace, all_logits)
    layout = lay_out_sequence(shape, precision, sizes[0])
    arguments.counters = workspace
    arguments.skipped = workspace + layout.skipped
    if all_logits is None:
        arguments.logits, arguments.logits_pitch = workspace + layout.logits, shape.outputs
    arguments.groups, arguments.blocks, arguments.waits = plan.groups, plan.blocks, waits
    arguments.shared_operands, arguments.shared_sampler = plan.shared_operands, plan.shared_sampler
    for name in ("states", "features", "activations"):
        for i, offset in enumerate(getattr(layout, name)):
            getattr(arguments, name)[i] = workspace + offset
    for i, name in enumerate(MATRICES):
        if name in plan.matrices:
            one = plan.matrices[name]
            arguments.matrices[i] = matrix_argument(
                address, name, one.rows, one.columns, one.resident, one.shared_offset
            )
    return arguments


class SequenceFamily:
    """One launch for all steps, on any GPU and in any precision of an engine."""

    kernels = ("sequence",)
    has_groups = True

    def refusal(self, precision: WeightPrecision, device: DeviceProperties) -> str | None:
        return "it has no fp8" if precision == "fp8" else None

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
    ) -> SequencePlan:
        return plan_sequence(shape, engine_precision(precision), batch, device, groups=choice.groups)

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        return 0 if precision == "fp8" else lay_out_sequence(shape, precision, batch).total

    def check(self, kernels: LoadedKernels, plan: SequencePlan) -> None:
        require_resident(
            plan, kernels.device, _kernel(kernels, plan).blocks_per_multiprocessor(THREADS, plan.shared_bytes)
        )

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: SequencePlan,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        arguments = sequence_arguments(
            shape, engine_precision(precision), plan, sizes, pointers, workspace, waits=waits
        )
        driver.fill(workspace, 0, plan.groups * COUNTER_BYTES, stream)
        kernel = _kernel(kernels, plan)
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=True)


def _kernel(kernels: LoadedKernels, plan: SequencePlan) -> LoadedKernel:
    return kernels.get("sequence", f"sequence_{plan.tile}")
