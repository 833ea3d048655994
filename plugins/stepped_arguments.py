"""The device memory that the stepped kernels need beside their operands, and a chunk's launches. Needs no GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import Operand, SequenceShape
from wavernn_trt.plugins.arguments import MATRICES, SteppedArguments
from wavernn_trt.plugins.chunk_arguments import chunk_arguments, matrix_argument
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stepped_plan import GATES, StagePlan, SteppedPlan, padded_columns, padded_logits

_ALIGNMENT = 256
_OPERAND_BYTES = 2
_FRAGMENT_ROWS = 16


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
    """One launch. The arguments are copied by the driver when it is launched, and by a CUDA graph when captured."""

    kernel: str
    """Its name in kernels/stepped.cu."""
    grid: int
    """Blocks."""
    threads: int
    """Of a block."""
    shared_bytes: int
    """Dynamic shared memory of a block."""
    arguments: SteppedArguments


def lay_out_stepped(shape: SequenceShape, batch: int) -> SteppedWorkspace:
    """Where a batch's buffers lie, on any device and in any precision."""
    used = 0

    def take(size: int) -> int:
        nonlocal used
        offset, used = used, -(-(used + size) // _ALIGNMENT) * _ALIGNMENT
        return offset

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
    return SteppedWorkspace(next_step, step, states, features, skipped, activations, logits, fragments, used)


def fragment_numbers(operand: Operand) -> int:
    """Numbers of a matrix in whole fragments of sixteen rows: those of each gate, or all."""
    rows, columns = (int(size) for size in operand.shape)
    gates = GATES if operand.name.startswith(("recurrent", "input")) else 1
    return gates * -(-(rows // gates) // _FRAGMENT_ROWS) * _FRAGMENT_ROWS * padded_columns(columns)


def stepped_launches(
    shape: SequenceShape,
    precision: WeightPrecision,
    plan: SteppedPlan,
    sizes: tuple[int, int, int],
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
    return itertools.chain([_launch(plan.begin, common)], itertools.chain.from_iterable(steps))


def _common_arguments(
    shape: SequenceShape,
    precision: WeightPrecision,
    plan: SteppedPlan,
    sizes: tuple[int, int, int],
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
        launch = _launch(stage, common)
        launches.append(launch)
        arguments = launch.arguments
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


def _launch(stage: StagePlan, common: SteppedArguments) -> Launch:
    arguments = SteppedArguments.from_buffer_copy(common)
    return Launch(stage.kernel, stage.grid, stage.threads, stage.shared_bytes, arguments)
