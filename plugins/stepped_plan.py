"""How a chunk is put onto a GPU in the stepped kernels: which tile each stage takes. Needs no GPU.

A stage is a launch; the kernels multiply on tensor cores; see kernels/stepped.h.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.resident_plan import PATCH_COLUMNS
from wavernn_trt.plugins.sequence_plan import THREADS, VECTOR_BYTES
from wavernn_trt.plugins.targets import Device

SLOTS = 4
"""Patches of columns of a tile in shared memory; see kernels/stepped_tile.h."""
RUN = 64
"""Units, or neighbouring rows, of a tile."""
GATES = 3
UNIT_TILES = (32, 64, 128)
"""Streams of a GRU's tiles, of `RUN` units."""
ROW_TILES = ((64, 32), (64, 64), (128, 128), (256, 128))
"""Rows and streams of the other layers' tiles."""
_FRAGMENT_ROWS = 16
_COPY_COST = 64
"""Of a number that is copied to shared memory, in multiplications: an assumption about GPUs, not measured."""
_MOST_NUMBERS = 2**31 - 1
"""The kernels count a matrix's numbers in 32 bits."""


@dataclass(frozen=True)
class Tile:
    """What a block computes, and what it has shared memory for."""

    streams: int
    rows: int
    """Of weights; of a GRU, three for each unit."""
    gates: bool
    """Whether rows are those of a GRU."""

    def blocks(self, rows: int, batch: int) -> int:
        """Tiles that cover a matrix of so many rows and a batch; rows of a gate are counted in whole units."""
        across = -(-(rows // GATES) // RUN) if self.gates else -(-rows // self.rows)
        return across * -(-batch // self.streams)

    def slot_bytes(self, precision: WeightPrecision) -> int:
        """Of one patch of columns, both operands."""
        return PATCH_COLUMNS * (self.rows * WEIGHT_BYTES[precision] + self.streams * 2)

    def shared_bytes(self, precision: WeightPrecision) -> int:
        """Dynamic shared memory of a block."""
        return SLOTS * self.slot_bytes(precision)

    def multiplications(self) -> int:
        """Instructions mma.m16n8k16 of a block for a patch of columns."""
        return self.rows // 16 * (self.streams // 8) * (PATCH_COLUMNS // 16)


@dataclass(frozen=True)
class StagePlan:
    """One launch of every step, or the first of a chunk."""

    kernel: str
    """Its name in kernels/stepped.cu."""
    grid: int
    """Blocks."""
    shared_bytes: int = 0
    """Dynamic shared memory of a block."""
    matrices: tuple[str, ...] = ()
    """Of its products; of `wavernn_trt.plugins.arguments.MATRICES`."""
    tile: Tile | None = None
    """None where nothing is multiplied."""
    threads: int = THREADS
    """Of a block."""


@dataclass(frozen=True)
class SteppedPlan:
    """How a chunk is launched."""

    begin: StagePlan
    """Once, before the first step."""
    stages: tuple[StagePlan, ...]
    """Of a step, in order."""

    def launches(self, steps: int) -> int:
        """Of a chunk."""
        return 1 + steps * len(self.stages)


def plan_stepped(
    shape: SequenceShape,
    precision: WeightPrecision,
    batch: int,
    device: Device,
    *,
    streams: int | None = None,
) -> SteppedPlan:
    """Plans a chunk.

    Args:
        shape: the model.
        precision: of its weights; not ``fp32``, which tensor cores do not multiply.
        batch: streams, at least 1.
        device: what it is launched on.
        streams: of every stage's tile, one of `UNIT_TILES`; each stage's own choice unless given. No bit of the
            result depends on it.

    Raises:
        KernelError: a block's shared memory holds none of the tiles.
        ValueError: sizes that no launch can have.
    """
    if precision == "fp32":
        raise ValueError("precision: found 'fp32', expected 'fp16', 'bf16' or 'fp8': tensor cores do not multiply it")
    if streams is not None and streams not in UNIT_TILES:
        raise ValueError(f"streams of a tile: found {streams}, expected one of {', '.join(map(str, UNIT_TILES))}")
    sizes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.name in MATRICES}
    # Rows of each gate, and columns, are padded to whole fragments.
    padded = ((int(rows) + GATES * _FRAGMENT_ROWS) * padded_columns(int(columns)) for rows, columns in sizes.values())
    most = max(padded, default=0)
    widest = max(padded_columns(int(columns)) for _, columns in sizes.values())
    if batch < 1 or max(most, batch * widest) > _MOST_NUMBERS:
        raise ValueError(
            f"found batch {batch}, matrices of up to {most} numbers and operands of up to {batch * widest}, expected "
            f"a batch of at least 1 and no more than {_MOST_NUMBERS} numbers"
        )

    def multiply(kind: str, tiles: Mapping[str, Tile], *matrices: str) -> StagePlan:
        rows = int(sizes[matrices[0]][0])
        allowed = {name: tile for name, tile in tiles.items() if streams in (None, tile.streams)}
        fitting = [name for name in allowed if allowed[name].shared_bytes(precision) <= device.shared_per_block]
        if not fitting:
            least = min(tile.shared_bytes(precision) for tile in allowed.values())
            raise KernelError(
                f"the stepped kernels need {least} bytes of shared memory, and a block of {device.name} "
                f"(sm_{device.sm}) has {device.shared_per_block}"
            )
        name = min(fitting, key=lambda name: _cost(allowed[name], rows, batch, device))
        tile = allowed[name]
        kernel = f"stepped_{kind}_{name}"
        return StagePlan(kernel, tile.blocks(rows, batch), tile.shared_bytes(precision), matrices, tile)

    stages = [multiply("units_0", _UNITS, "recurrent_weight_0")]
    if shape.layers == 2:
        stages.append(multiply("units_1", _UNITS, "input_weight_1", "recurrent_weight_1"))
    for i in range(len(shape.fc_sizes)):
        stages.append(multiply("rows", _ROWS, f"fc_weight_{i}"))
    stages.append(multiply("rows", _ROWS, "output_weight"))
    stages.append(StagePlan("stepped_draw", -(-batch // (THREADS // 32))))
    return SteppedPlan(StagePlan("stepped_begin", batch), tuple(stages))


def kernel_names() -> Iterator[str]:
    """All kernels of kernels/stepped.cu."""
    yield from ("stepped_begin", "stepped_draw")
    yield from (f"stepped_units_{layer}_{name}" for layer in (0, 1) for name in _UNITS)
    yield from (f"stepped_rows_{name}" for name in _ROWS)


def padded_columns(columns: int) -> int:
    """Numbers from one stream's operands to the next's."""
    return -(-columns // PATCH_COLUMNS) * PATCH_COLUMNS


def padded_logits(outputs: int) -> int:
    """Floats from one stream's logits to the next's."""
    floats = VECTOR_BYTES // 4
    return -(-outputs // floats) * floats


_UNITS = {str(streams): Tile(streams, GATES * RUN, gates=True) for streams in UNIT_TILES}
_ROWS = {f"{rows}x{streams}": Tile(streams, rows, gates=False) for rows, streams in ROW_TILES}


def _cost(tile: Tile, rows: int, batch: int, device: Device) -> int:
    """Of a patch's column, in multiplications: turns that the multiprocessors take, times a tile's work."""
    turns = -(-tile.blocks(rows, batch) // device.multiprocessors)
    return turns * (tile.rows * tile.streams + _COPY_COST * (tile.rows + tile.streams))
