"""How a chunk is put onto a GPU: grid, tiles of streams, and which weights stay in shared memory. Needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wavernn_trt.export.operators import Precision, SequenceShape
from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.targets import Device

THREADS = 256
"""Of a block; the kernels are compiled for it."""
TILES = (8, 4, 1)
"""Streams that can be computed together: each is a kernel of its own."""
MOST_GROUPS = 64
"""Groups of blocks; the workspace has room for the counters of as many."""
WAITS = 1 << 24
"""How often a block looks for the others before it gives up. Each look takes about a microsecond or less, so that the
bound is some ten seconds, where a barrier takes two microseconds."""
NUMBER_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2}
VECTOR_BYTES = 16
"""What a thread reads at once; rows in shared memory and in the workspace are padded to a multiple of it."""
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

    @property
    def resident_share(self) -> float:
        """The part of the weights that stays in shared memory, 0 to 1; of the block with the largest share."""
        every = sum(matrix.sets * matrix.set_bytes for matrix in self.matrices.values())
        kept = sum(min(matrix.sets, matrix.resident) * matrix.set_bytes for matrix in self.matrices.values())
        return kept / every


def plan_sequence(
    shape: SequenceShape,
    precision: Precision,
    batch: int,
    device: Device,
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
            set_rows = 3 if name.startswith(("recurrent", "input")) else min(tile, 2)
            yield name, (rows, columns, set_rows, -(-rows // set_rows))


def _operand_bytes(shape: SequenceShape, precision: Precision, tile: int) -> int:
    """Of a tile's operands, in the stage that has most of them."""
    widest = max(padded(size, precision) for size in (shape.hidden_size, *shape.fc_sizes))
    numbers = max(shape.layers * padded(shape.hidden_size, precision), widest)
    return tile * numbers * NUMBER_BYTES[precision]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
