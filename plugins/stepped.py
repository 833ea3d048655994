"""The stepped kernels: one launch for each stage of each step, products on tensor cores; see kernels/stepped.h."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import Operand, SequenceShape
from wavernn_trt.plugins.arguments import (
    MATRICES,
    PATCH_COLUMNS,
    THREADS,
    VECTOR_BYTES,
    ChunkSizes,
    Offsets,
    SteppedArguments,
    chunk_arguments,
    has_gates,
    set_matrix,
)
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, refusal_by_tensor_cores
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import DeviceProperties

SLOTS = 4
"""Slots of a tile in shared memory, each for one patch of columns; see kernels/stepped_tile.h."""
RUN = 64
"""Units, or neighbouring rows, of a tile."""
GATES = 3
UNIT_TILES = (32, 64, 128)
"""Streams of the tiles of a GRU, which have `RUN` units."""
ROW_TILES = ((64, 32), (64, 64), (128, 128), (256, 128))
"""Rows and streams of the tiles of the other layers."""
_FRAGMENT_ROWS = 16
_ALIGNMENT = 256
_OPERAND_BYTES = 2
_COPY_COST = 64
"""Cost of copying a number to shared memory, in multiplications: an assumption, not measured."""
_MOST_NUMBERS = 2**31 - 1
"""Maximum size of a matrix in numbers: the kernels use 32-bit indices."""


@dataclass(frozen=True)
class Tile:
    """The part of a product that a block computes."""

    streams: int
    rows: int
    """Rows of weights; three for each unit of a GRU."""
    gates: bool
    """Whether the rows are gates of a GRU."""

    def blocks(self, rows: int, batch: int) -> int:
        """Returns the number of tiles that cover a matrix with ``rows`` rows and a batch."""
        across = -(-(rows // GATES) // RUN) if self.gates else -(-rows // self.rows)
        return across * -(-batch // self.streams)

    def shared_bytes(self, precision: WeightPrecision) -> int:
        """Returns the dynamic shared memory of a block: `SLOTS` slots for both operands."""
        return SLOTS * PATCH_COLUMNS * (self.rows * WEIGHT_BYTES[precision] + self.streams * _OPERAND_BYTES)


@dataclass(frozen=True)
class StagePlan:
    """Launch configuration of a stage of a step, or of the first launch of a chunk."""

    kernel: str
    """Name of the kernel in kernels/stepped.cu."""
    grid: int
    """Number of blocks."""
    shared_bytes: int = 0
    """Dynamic shared memory of a block."""
    matrices: tuple[str, ...] = ()
    """Matrices of the products, of `MATRICES`."""
    tile: Tile | None = None
    """None if the stage has no product."""


@dataclass(frozen=True)
class SteppedPlan:
    """Launch configurations of a chunk."""

    begin: StagePlan
    """The first launch, before all steps."""
    stages: tuple[StagePlan, ...]
    """The launches of a step, in order."""

    def launches(self, steps: int) -> int:
        """Returns the number of launches of a chunk."""
        return 1 + steps * len(self.stages)


def plan_stepped(
    shape: SequenceShape,
    precision: WeightPrecision,
    batch: int,
    device: DeviceProperties,
    *,
    streams: int | None = None,
) -> SteppedPlan:
    """Plans a chunk.

    Args:
        shape: the model.
        precision: precision of its weights; not ``fp32``, which tensor cores do not multiply.
        batch: number of streams, at least 1.
        device: the GPU.
        streams: streams of the tiles of all stages, one of `UNIT_TILES`; default: the tile with the lowest estimated
            cost for each stage. The results are bit-equal for all tiles.

    Raises:
        KernelError: none of the tiles fits into shared memory.
        ValueError: invalid sizes.
    """
    if precision == "fp32":
        raise ValueError("precision: found 'fp32', expected 'fp16', 'bf16' or 'fp8': tensor cores do not multiply it")
    if streams is not None and streams not in UNIT_TILES:
        raise ValueError(f"streams of a tile: found {streams}, expected one of {', '.join(map(str, UNIT_TILES))}")
    sizes = {operand.name: operand.shape for operand in shape.weight_inputs() if operand.name in MATRICES}
    # The rows of each gate and the columns are padded to whole fragments.
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
    """Yields the names of all kernels of kernels/stepped.cu."""
    yield from ("stepped_begin", "stepped_draw")
    yield from (f"stepped_units_{layer}_{name}" for layer in (0, 1) for name in _UNITS)
    yield from (f"stepped_rows_{name}" for name in _ROWS)


def padded_columns(columns: int) -> int:
    """Returns the distance between the operands of two streams, in numbers."""
    return -(-columns // PATCH_COLUMNS) * PATCH_COLUMNS


def padded_logits(outputs: int) -> int:
    """Returns the distance between the logits of two streams, in floats."""
    floats = VECTOR_BYTES // 4
    return -(-outputs // floats) * floats


_UNITS = {str(streams): Tile(streams, GATES * RUN, gates=True) for streams in UNIT_TILES}
_ROWS = {f"{rows}x{streams}": Tile(streams, rows, gates=False) for rows, streams in ROW_TILES}


def _cost(tile: Tile, rows: int, batch: int, device: DeviceProperties) -> int:
    """Estimates the cost of a column, in multiplications: waves of blocks times the work of a tile."""
    waves = -(-tile.blocks(rows, batch) // device.multiprocessors)
    return waves * (tile.rows * tile.streams + _COPY_COST * (tile.rows + tile.streams))


@dataclass(frozen=True)
class SteppedWorkspace:
    """Byte offsets of the buffers in the workspace, which need not be cleared."""

    next_step: int
    step: int
    states: tuple[int, ...]
    """States of each layer, operands [2, B, padded H]."""
    features: tuple[int, ...]
    """Output of each layer if the model has a skip connection, operands [B, padded H]."""
    skipped: int
    """float32 [B, H] if the model has a skip connection."""
    activations: tuple[int, ...]
    """Output of each hidden fully connected layer, operands [B, padded width]."""
    logits: int
    """float32 [B, padded outputs]."""
    fragments: Mapping[str, int]
    """Each matrix, by name, in the order of kernels/fragments.h; see `fragment_numbers`."""
    total: int
    """Size of the workspace."""


@dataclass(frozen=True)
class Launch:
    """One launch of a stage. The arguments are copied when it is launched, or captured into a CUDA graph."""

    stage: StagePlan
    arguments: SteppedArguments


def lay_out_stepped(shape: SequenceShape, batch: int) -> SteppedWorkspace:
    """Lays out the workspace of a batch, the same on all devices and for all precisions."""
    offsets = Offsets(_ALIGNMENT)
    take = offsets.take

    def operands(columns: int) -> int:
        return batch * padded_columns(columns) * _OPERAND_BYTES

    next_step, step = take(4), take(4)
    states = tuple(take(2 * operands(shape.hidden_size)) for _ in range(shape.layers))
    features = tuple(take(operands(shape.hidden_size)) for _ in range(shape.layers if shape.skip else 0))
    skipped = take(4 * batch * shape.hidden_size if shape.skip else 0)
    activations = tuple(take(operands(size)) for size in shape.fc_sizes)
    logits = take(4 * batch * padded_logits(shape.outputs))
    fragments = {
        operand.name: take(fragment_numbers(operand) * _OPERAND_BYTES)
        for operand in shape.weight_inputs()
        if operand.kind == "weight"
    }
    return SteppedWorkspace(next_step, step, states, features, skipped, activations, logits, fragments, offsets.used)


def fragment_numbers(operand: Operand) -> int:
    """Returns the size of a matrix, in numbers, with its rows (of each gate) padded to whole fragments."""
    rows, columns = (int(size) for size in operand.shape)
    gates = GATES if has_gates(operand.name) else 1
    return gates * -(-(rows // gates) // _FRAGMENT_ROWS) * _FRAGMENT_ROWS * padded_columns(columns)


def stepped_launches(
    shape: SequenceShape,
    precision: WeightPrecision,
    plan: SteppedPlan,
    sizes: ChunkSizes,
    pointers: Sequence[int],
    workspace: int,
    *,
    all_logits: int | None = None,
) -> Iterator[Launch]:
    """Returns the launches of a chunk in order, for one CUDA stream.

    There are two buffers of states, so even and odd steps have different arguments; all even steps have the same
    `Launch` objects, and all odd steps. A CUDA graph of two steps can therefore be replayed for any even chunk length.

    Args:
        shape: the model.
        precision: precision of its weights.
        plan: the plan for this batch.
        sizes: streams B, steps T, window rows W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``; with ``fp8`` then of the scales
            of each weight.
        workspace: address of the workspace; see `lay_out_stepped`.
        all_logits: address of float32 [B, T, outputs] for the logits of all steps; None keeps none.

    Raises:
        ValueError: wrong number of pointers, a size below 1, or a workspace that is not aligned.
    """
    common = _common_arguments(shape, precision, plan, sizes, pointers, workspace, all_logits)
    even_and_odd = [_launches_of_step(shape, plan, common, odd) for odd in (False, True)]
    steps = itertools.islice(itertools.cycle(even_and_odd), sizes[1])
    return itertools.chain([Launch(plan.begin, common)], itertools.chain.from_iterable(steps))


def _common_arguments(
    shape: SequenceShape,
    precision: WeightPrecision,
    plan: SteppedPlan,
    sizes: ChunkSizes,
    pointers: Sequence[int],
    workspace: int,
    all_logits: int | None,
) -> SteppedArguments:
    """Returns the arguments that all launches of a chunk have in common."""
    names = sorted((name for stage in plan.stages for name in stage.matrices), key=MATRICES.index)
    scaled = names if precision == "fp8" else []
    operands = len(pointers) - len(scaled)
    common, address = chunk_arguments(shape, sizes, pointers[:operands], workspace, all_logits)
    layout = lay_out_stepped(shape, sizes[0])
    common.skipped = workspace + layout.skipped
    for name in ("states", "features", "activations"):
        for i, offset in enumerate(getattr(layout, name)):
            getattr(common, name)[i] = workspace + offset
    matrix_sizes = {operand.name: operand.shape for operand in shape.weight_inputs()}
    for name in names:
        rows, columns = (int(size) for size in matrix_sizes[name])
        set_matrix(common, address, name, (rows, columns))
    arguments = SteppedArguments(
        s=common,
        next_step=workspace + layout.next_step,
        step=workspace + layout.step,
        step_logits=workspace + layout.logits,
    )
    for name in names:
        arguments.fragments[MATRICES.index(name)] = workspace + layout.fragments[name]
    for name, scales in zip(scaled, pointers[operands:], strict=True):
        arguments.scales[MATRICES.index(name)] = scales
    return arguments


def _launches_of_step(shape: SequenceShape, plan: SteppedPlan, common: SteppedArguments, odd: bool) -> list[Launch]:
    """Returns the launches of an even or odd step."""
    s = common.s
    buffer_bytes: int = s.batch * padded_columns(shape.hidden_size) * _OPERAND_BYTES

    def states(layer: int, odd: bool) -> int:
        return int(s.states[layer]) + buffer_bytes * odd

    launches, read = [], 0
    for stage in plan.stages:
        arguments = SteppedArguments.from_buffer_copy(common)
        launches.append(Launch(stage, arguments))
        for i, name in enumerate(stage.matrices):
            arguments.matrices[i] = MATRICES.index(name)
        if stage.kernel.startswith("stepped_units"):
            layer = len(stage.matrices) - 1
            arguments.operands[0] = read
            arguments.operands[layer] = states(layer, not odd)
            arguments.results = states(layer, odd)
            arguments.features = int(s.features[layer]) if shape.skip else None
            read = int(s.features[layer]) if shape.skip else states(layer, odd)
        elif stage.matrices:
            arguments.operands[0] = read
            if stage.matrices[0] != "output_weight":
                arguments.results = read = s.activations[
                    MATRICES.index(stage.matrices[0]) - MATRICES.index("fc_weight_0")
                ]
    return launches


class SteppedFamily:
    """One launch for each stage of each step; each reads its weights from global memory."""

    kernels = ("stepped",)
    has_groups = False

    def refusal(self, precision: WeightPrecision, device: DeviceProperties) -> str | None:
        return refusal_by_tensor_cores(precision, device)

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
    ) -> SteppedPlan:
        if choice.groups != 1:
            raise ValueError(f"groups: found {choice.groups}, expected 1: the blocks of stepped kernels form no groups")
        return plan_stepped(shape, precision, batch, device)

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        return 0 if precision == "fp32" else lay_out_stepped(shape, batch).total

    def check(self, kernels: LoadedKernels, plan: SteppedPlan) -> None:
        for stage in (plan.begin, *plan.stages):
            kernels.get("stepped", stage.kernel)

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: SteppedPlan,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        del waits  # the blocks of a launch do not wait for each other
        for step in stepped_launches(shape, precision, plan, sizes, pointers, workspace):
            stage = step.stage
            kernel = kernels.get("stepped", stage.kernel)
            kernel.launch(stage.grid, THREADS, stage.shared_bytes, step.arguments, stream, cooperative=False)
