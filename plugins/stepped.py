"""The stepped kernels: a launch for each stage of each step, products on tensor cores; see kernels/stepped.h."""

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
    matrix_argument,
)
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, refusal_by_tensor_cores
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.targets import DeviceProperties

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
_ALIGNMENT = 256
_OPERAND_BYTES = 2
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
    """Of its products; of `MATRICES`."""
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
    device: DeviceProperties,
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


def _cost(tile: Tile, rows: int, batch: int, device: DeviceProperties) -> int:
    """Of a patch's column, in multiplications: turns that the multiprocessors take, times a tile's work."""
    turns = -(-tile.blocks(rows, batch) // device.multiprocessors)
    return turns * (tile.rows * tile.streams + _COPY_COST * (tile.rows + tile.streams))


@dataclass(frozen=True)
class SteppedWorkspace:
    """Offsets in bytes from the beginning. Nothing needs to be cleared."""

    next_step: int
    step: int
    states: tuple[int, ...]
    """Of each layer, operands [2, B, padded H]."""
    features: tuple[int, ...]
    """Behind each layer where there is a skip, operands [B, padded H]."""
    skipped: int
    """float32 [B, H] where there is a skip."""
    activations: tuple[int, ...]
    """Of each fully connected layer, operands [B, padded width]."""
    logits: int
    """float32 [B, padded outputs]."""
    fragments: Mapping[str, int]
    """Of each matrix, by name: its numbers in the order of kernels/fragments.h; see `fragment_numbers`."""
    total: int
    """Bytes in all."""


@dataclass(frozen=True)
class Launch:
    """One launch of a stage. The driver copies the arguments when it is launched, a CUDA graph when it is captured."""

    stage: StagePlan
    arguments: SteppedArguments


def lay_out_stepped(shape: SequenceShape, batch: int) -> SteppedWorkspace:
    """Where a batch's buffers lie, on any device and in any precision."""
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
    """Numbers of a matrix in whole fragments of sixteen rows: those of each gate, or all."""
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
    """The launches of a chunk, in the order of one stream.

    The launches of a step are made twice, since two buffers of states take turns; all further steps are the same
    objects again. What a CUDA graph of two steps holds may so be replayed for a chunk of any even length.

    Args:
        shape: the model.
        precision: of its weights.
        plan: of this batch.
        sizes: streams B, steps T, rows of a window W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``, and in ``fp8`` then of each
            weight's scales.
        workspace: address of as many bytes as `lay_out_stepped` says.
        all_logits: address of float32 [B, T, outputs], where every step's logits are to be kept.

    Raises:
        ValueError: another number of pointers, a size below 1, or a workspace that is not aligned.
    """
    common = _common_arguments(shape, precision, plan, sizes, pointers, workspace, all_logits)
    halves = [_launches_of_step(shape, plan, common, odd) for odd in (False, True)]
    steps = itertools.islice(itertools.cycle(halves), sizes[1])
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
    """What all launches have in common."""
    names = [name for stage in plan.stages for name in stage.matrices]
    names.sort(key=MATRICES.index)
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
        common.matrices[MATRICES.index(name)] = matrix_argument(address, name, rows, columns, 0, 0)
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
    """Of an even or odd step."""
    s = common.s
    half: int = s.batch * padded_columns(shape.hidden_size) * _OPERAND_BYTES

    def states(layer: int, odd: bool) -> int:
        return int(s.states[layer]) + half * odd

    def behind(layer: int) -> int:
        return int(s.features[layer]) if shape.skip else states(layer, odd)

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
            arguments.features = behind(layer) if shape.skip else None
            read = behind(layer)
        elif stage.matrices:
            arguments.operands[0] = read
            if stage.matrices[0] != "output_weight":
                arguments.results = read = s.activations[
                    MATRICES.index(stage.matrices[0]) - MATRICES.index("fc_weight_0")
                ]
    return launches


class SteppedFamily:
    """A launch a stage and step; each reads its weights from global memory."""

    kernels = ("stepped",)
    has_groups = False

    def refusal(self, precision: WeightPrecision, device: DeviceProperties) -> str | None:
        return refusal_by_tensor_cores(precision, device)

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
    ) -> SteppedPlan:
        if choice.groups != 1:
            raise ValueError(f"groups: found {choice.groups} for stepped kernels, whose blocks do not form groups")
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
        del waits
        for one in stepped_launches(shape, precision, plan, sizes, pointers, workspace):
            stage = one.stage
            kernel = kernels.get("stepped", stage.kernel)
            kernel.launch(stage.grid, stage.threads, stage.shared_bytes, one.arguments, stream, cooperative=False)
