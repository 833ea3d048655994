"""The GRU cell's kernel, one launch a cell; see kernels/gru_cell.h."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import GRU_OPERATOR, Precision
from wavernn_trt.plugins.arguments import THREADS, GruArguments
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.loaded_kernels import KernelsByDevice
from wavernn_trt.plugins.sequence import NUMBER_BYTES, TILES

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


class GruCellKernel:
    """``CustomGRUPlugin``'s kernel: one launch is one cell."""

    def __init__(
        self,
        hidden_size: int,
        precision: Precision,
        cache: KernelCache | None = None,
        loaded: KernelsByDevice | None = None,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            hidden_size: H.
            precision: of the recurrent weights.
            cache: of compiled kernels; the user's unless given.
            loaded: kernels of this precision that are loaded already, in place of the cache's.
        """
        self._hidden_size, self._precision = hidden_size, precision
        self._kernels = loaded or KernelsByDevice(precision, cache)

    def prepare(self) -> None:
        """Compiles and loads the kernels for the current device, so that a launch can be captured into a CUDA graph.

        Raises:
            KernelError: there is no compiler, driver, GPU or context.
        """
        kernels = self._kernels.on_current_device()
        for tile in TILES:
            kernels.get("gru_cell", f"gru_cell_{tile}")

    def launch(self, batch: int, pointers: Sequence[int], stream: int) -> None:
        """Puts a cell on a stream; allocates nothing and waits for nothing.

        Args:
            batch: B.
            pointers: device addresses of gates, hidden, recurrent_weight, recurrent_bias and next_hidden, each a
                multiple of its type's size; next_hidden may not be hidden.
            stream: a CUDA stream's handle.

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: sizes or addresses that no launch can have.
        """
        plan = plan_gru(self._hidden_size, self._precision, batch)
        arguments = gru_arguments(self._hidden_size, plan, batch, pointers)
        kernel = self._kernels.on_current_device().get("gru_cell", f"gru_cell_{plan.tile}")
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=False)
