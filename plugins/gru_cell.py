"""The GRU cell's kernel, one launch for each cell; see kernels/gru_cell.h."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import GRU_OPERATOR, Precision
from wavernn_trt.plugins.arguments import THREADS, GruArguments
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.loaded_kernels import KernelsByDevice
from wavernn_trt.plugins.precisions import WEIGHT_BYTES
from wavernn_trt.plugins.sequence import TILES

GRU_COLUMNS = 1024
"""Columns of the states that are in shared memory at once; see kernels/gru_cell.h."""


@dataclass(frozen=True)
class GruPlan:
    """Launch configuration of a cell."""

    tile: int
    """Streams that a block computes together; each weight is read once for all of them."""
    unit_blocks: int
    """Blocks among which the units are divided."""
    grid: int
    """Total number of blocks."""
    shared_bytes: int
    """Dynamic shared memory of a block."""


def plan_gru(hidden_size: int, precision: Precision, batch: int, *, warps: int = THREADS // 32) -> GruPlan:
    """Plans a launch: one warp for each unit and tile of streams.

    Raises:
        ValueError: sizes below 1.
    """
    if hidden_size < 1 or batch < 1:
        raise ValueError(f"{GRU_OPERATOR}: found {hidden_size} units and {batch} streams, expected at least one")
    tile = min((tile for tile in TILES if tile >= batch), default=max(TILES))
    unit_blocks = -(-hidden_size // warps)
    return GruPlan(tile, unit_blocks, unit_blocks * -(-batch // tile), tile * GRU_COLUMNS * WEIGHT_BYTES[precision])


def gru_arguments(hidden_size: int, plan: GruPlan, batch: int, pointers: Sequence[int]) -> GruArguments:
    """Returns the arguments of a launch.

    Args:
        hidden_size: H.
        plan: the plan for this batch.
        batch: B.
        pointers: addresses of gates, hidden, recurrent_weight, recurrent_bias and next_hidden.

    Raises:
        ValueError: wrong number of addresses, or next_hidden is the same buffer as hidden.
    """
    if len(pointers) != 5:
        raise ValueError(f"{GRU_OPERATOR}: found {len(pointers)} addresses, expected 5")
    if pointers[1] == pointers[4]:
        raise ValueError(
            f"{GRU_OPERATOR}: next_hidden and hidden have the same address, expected two buffers: every unit reads all "
            "of hidden"
        )
    return GruArguments(*pointers, batch, hidden_size, plan.unit_blocks)


class GruCellKernel:
    """The kernel of ``CustomGRUPlugin``: one launch computes one cell."""

    def __init__(
        self,
        hidden_size: int,
        precision: Precision,
        cache: KernelCache | None = None,
        loaded: KernelsByDevice | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            hidden_size: H.
            precision: precision of the recurrent weights.
            cache: cache of compiled kernels; default: the user's.
            loaded: loaded kernels of this precision, used instead of a cache.
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
        """Enqueues a cell on a stream, without allocation or synchronisation.

        Args:
            batch: B.
            pointers: device addresses of gates, hidden, recurrent_weight, recurrent_bias and next_hidden, each a
                multiple of its type's size; next_hidden and hidden must be different buffers.
            stream: handle of a CUDA stream.

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: invalid sizes or addresses.
        """
        plan = plan_gru(self._hidden_size, self._precision, batch)
        arguments = gru_arguments(self._hidden_size, plan, batch, pointers)
        kernel = self._kernels.on_current_device().get("gru_cell", f"gru_cell_{plan.tile}")
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=False)
