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
    MatrixPlan,
    Offsets,
    SequenceArguments,
    chunk_arguments,
    has_gates,
    set_matrix,
)
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, require_resident
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision, engine_precision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import DeviceProperties

TILES = (8, 4, 1)
"""Streams that are computed together; there is a kernel for each number."""
_ALIGNMENT = 256


@dataclass(frozen=True)
class SequencePlan:
    """Launch configuration of a chunk."""

    tile: int
    """Streams that are computed together, one of `TILES`."""
    groups: int
    """Groups of blocks; each decodes a part of the streams with its own copy of the weights."""
    blocks: int
    """Blocks of a group; the grid has ``groups * blocks``, one for each multiprocessor."""
    shared_bytes: int
    """Dynamic shared memory of a block."""
    shared_operands: int
    """Byte offset in shared memory of the tile's operands."""
    shared_sampler: int
    """Byte offset in shared memory of the sampler's sums, then of the flag that the block has stopped waiting."""
    matrices: Mapping[str, MatrixPlan]
    """Plans by operand name. A set has the three gates of a unit, or the rows that a warp computes at once."""

    @property
    def grid(self) -> int:
        """Total number of blocks."""
        return self.groups * self.blocks


def plan_sequence(
    shape: SequenceShape,
    precision: Precision,
    batch: int,
    device: DeviceProperties,
    *,
    groups: int = 1,
    blocks: int | None = None,
    warps: int = THREADS // 32,
) -> SequencePlan:
    """Plans a launch.

    Args:
        shape: the model.
        precision: precision of its weights.
        batch: number of streams, at least 1.
        device: the GPU.
        groups: groups of blocks among which the streams are divided.
        blocks: blocks of a group; default: one for each multiprocessor of the group.
        warps: warps of a block.

    Raises:
        KernelError: the operands of one stream do not fit into shared memory.
        ValueError: invalid sizes.
    """
    if batch < 1 or not 1 <= groups <= min(MOST_GROUPS, device.multiprocessors) or (blocks is not None and blocks < 1):
        raise ValueError(
            f"found batch {batch}, {groups} groups and {blocks} blocks, expected a batch of at least 1 and 1 to "
            f"{min(MOST_GROUPS, device.multiprocessors)} groups of at least one block"
        )
    sampler_bytes = _round_up(warps * 12 + 8, VECTOR_BYTES)
    streams = -(-batch // groups)
    largest = min((tile for tile in TILES if tile >= streams), default=max(TILES))
    fitting = [
        tile
        for tile in TILES
        if tile <= largest and _operand_bytes(shape, precision, tile) + sampler_bytes <= device.shared_per_block
    ]
    if not fitting:
        raise KernelError(
            f"one stream's operands take {_operand_bytes(shape, precision, 1)} bytes of shared memory in {precision}, "
            f"and a block of {device.name} (sm_{device.sm}) has {device.shared_per_block}: build the cell form of this "
            "model (--form cell), or use a lower precision"
        )
    tile = fitting[0]
    sets = dict(_sets(shape, tile))
    most = max(total for _, _, _, total in sets.values())
    if blocks is None:
        blocks = min(device.multiprocessors // groups, most)
    offset = _operand_bytes(shape, precision, tile) + sampler_bytes
    matrices: dict[str, MatrixPlan] = {}
    for name, (rows, columns, set_rows, total) in sets.items():
        set_bytes = set_rows * _row_bytes(columns, precision)
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


def _sets(shape: SequenceShape, tile: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yields the name of each matrix, and its rows, columns, rows of a set, and number of sets."""
    shapes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.kind == "weight"}
    for name in MATRICES:
        if name in shapes:
            rows, columns = (int(size) for size in shapes[name])
            set_rows = 3 if has_gates(name) else min(tile, 2)
            yield name, (rows, columns, set_rows, -(-rows // set_rows))


def _operand_bytes(shape: SequenceShape, precision: Precision, tile: int) -> int:
    """Returns the size of a tile's operands in the stage with the most operands."""
    widest = max(_row_bytes(size, precision) for size in (shape.hidden_size, *shape.fc_sizes))
    return tile * max(shape.layers * _row_bytes(shape.hidden_size, precision), widest)


def _row_bytes(columns: int, precision: Precision) -> int:
    """Returns the size of a row, padded to whole vectors."""
    return _round_up(columns * WEIGHT_BYTES[precision], VECTOR_BYTES)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class SequenceWorkspace:
    """Byte offsets of the buffers in the workspace, which begins with the counters."""

    counter_bytes: int
    """Size of the counters, which must be zero before each launch."""
    states: tuple[int, ...]
    features: tuple[int, ...]
    skipped: int
    activations: tuple[int, ...]
    logits: int
    total: int
    """Size of the workspace."""


def lay_out_sequence(shape: SequenceShape, precision: Precision, batch: int) -> SequenceWorkspace:
    """Lays out the workspace of a batch, the same on all devices."""
    offsets = Offsets(_ALIGNMENT)
    take = offsets.take
    counter_bytes = MOST_GROUPS * COUNTER_BYTES
    take(counter_bytes)
    state_bytes = batch * _row_bytes(shape.hidden_size, precision)
    states = tuple(take(2 * state_bytes) for _ in range(shape.layers))
    features = tuple(take(state_bytes) for _ in range(shape.layers if shape.skip else 0))
    skipped = take(4 * batch * shape.hidden_size if shape.skip else 0)
    activations = tuple(take(batch * _row_bytes(size, precision)) for size in shape.fc_sizes)
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
    """Returns the arguments of a launch.

    Args:
        shape: the model.
        precision: precision of its weights.
        plan: the plan for this batch.
        sizes: streams B, steps T, window rows W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``.
        workspace: address of the workspace; see `lay_out_sequence`.
        waits: maximum number of polls of a waiting block.
        all_logits: address of float32 [B, T, outputs] for the logits of all steps; None keeps none.

    Raises:
        ValueError: wrong number of pointers, a size below 1, or a workspace that is not aligned.
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
    for name, matrix in plan.matrices.items():
        set_matrix(arguments, address, name, (matrix.rows, matrix.columns), matrix.resident, matrix.shared_offset)
    return arguments


class SequenceFamily:
    """One launch for all steps of a chunk, on any GPU, in every precision but ``fp8``."""

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
        kernel = kernels.get("sequence", f"sequence_{plan.tile}")
        fitting = kernel.blocks_per_multiprocessor(THREADS, plan.shared_bytes)
        require_resident(plan.grid, plan.shared_bytes, kernels.device, fitting)

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
        kernel = kernels.get("sequence", f"sequence_{plan.tile}")
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=True)
