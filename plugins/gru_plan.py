"""How one GRU cell is put onto a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import GRU_OPERATOR, Precision
from wavernn_trt.plugins.arguments import GruArguments
from wavernn_trt.plugins.sequence_plan import NUMBER_BYTES, THREADS, TILES

GRU_COLUMNS = 1024
"""Columns of the states that are in shared memory at a time; see kernels/gru_cell.h."""


@dataclass(frozen=True)
class GruPlan:
    """How a cell is launched."""

    tile: int
    """Streams that share each read of a weight."""
    unit_blocks: int
    """Blocks that share out the units."""
    grid: int
    """Blocks in all."""
    shared_bytes: int
    """Dynamic shared memory of a block."""


def plan_gru(hidden_size: int, precision: Precision, batch: int, *, warps: int = THREADS // 32) -> GruPlan:
    """Plans a launch: a warp a unit and tile of streams.

    Raises:
        ValueError: sizes below 1.
    """
    if hidden_size < 1 or batch < 1:
        raise ValueError(f"{GRU_OPERATOR}: found {hidden_size} units and {batch} streams, expected at least one")
    tile = min((tile for tile in TILES if tile >= batch), default=max(TILES))
    unit_blocks = -(-hidden_size // warps)
    return GruPlan(tile, unit_blocks, unit_blocks * -(-batch // tile), tile * GRU_COLUMNS * NUMBER_BYTES[precision])


def gru_arguments(hidden_size: int, plan: GruPlan, batch: int, pointers: Sequence[int]) -> GruArguments:
    """What a kernel is launched with.

    Args:
        hidden_size: H.
        plan: of this batch.
        batch: B.
        pointers: addresses of gates, hidden, recurrent_weight, recurrent_bias and next_hidden.

    Raises:
        ValueError: another number of addresses, or next_hidden is hidden.
    """
    if len(pointers) != 5:
        raise ValueError(f"{GRU_OPERATOR}: found {len(pointers)} addresses, expected 5")
    if pointers[1] == pointers[4]:
        raise ValueError(f"{GRU_OPERATOR}: next_hidden is hidden; every unit reads all of it, so it cannot be in place")
    return GruArguments(*pointers, batch, hidden_size, plan.unit_blocks)
