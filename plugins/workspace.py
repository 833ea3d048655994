"""The device memory that a sequence needs beside its operands, and its launch arguments. Needs no GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import OUTPUTS, PLACES, SEQUENCE_OPERATOR, Precision, SequenceShape
from wavernn_trt.plugins.arguments import BIASES, GROUPS_OF_COLUMNS, MATRICES, Matrix, SequenceArguments
from wavernn_trt.plugins.sequence_plan import MOST_GROUPS, NUMBER_BYTES, VECTOR_BYTES, WAITS, SequencePlan, padded

COUNTER_BYTES = 128
"""From one group's counter to the next's; see kernels/group.h."""
_ALIGNMENT = 256


@dataclass(frozen=True)
class Workspace:
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


def lay_out(shape: SequenceShape, precision: Precision, batch: int) -> Workspace:
    """Where a batch's buffers lie, on any device."""
    used = 0

    def take(size: int) -> int:
        nonlocal used
        offset, used = used, -(-(used + size) // _ALIGNMENT) * _ALIGNMENT
        return offset

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
    return Workspace(counter_bytes, states, features, skipped, activations, logits, used)


def sequence_arguments(
    shape: SequenceShape,
    precision: Precision,
    plan: SequencePlan,
    sizes: tuple[int, int, int],
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
        workspace: address of as many bytes as `lay_out` says.
        waits: how often a block looks for the others before it gives up.
        all_logits: address of float32 [B, T, outputs], where every step's logits are to be kept.

    Raises:
        ValueError: another number of pointers, a size below 1, or a workspace that is not aligned.
    """
    operands = [operand.name for operand in (*shape.inputs(), *shape.outputs_of_node())]
    if len(pointers) != len(operands) or min(sizes) < 1:
        raise ValueError(
            f"{SEQUENCE_OPERATOR}: found {len(pointers)} addresses and sizes {sizes}, expected {len(operands)} "
            f"({', '.join(operands)}) and at least one stream, step and row"
        )
    if workspace % VECTOR_BYTES:
        raise ValueError(
            f"{SEQUENCE_OPERATOR}: found a workspace at {workspace:#x}, expected a multiple of {VECTOR_BYTES}: "
            "its rows are read that many bytes at a time"
        )
    address = dict(zip(operands, pointers, strict=True))
    batch, steps, window = sizes
    layout = lay_out(shape, precision, batch)
    arguments = SequenceArguments(
        **{name: address.get(name) for name in _POINTERS},
        counters=workspace,
        skipped=workspace + layout.skipped,
        logits=workspace + layout.logits if all_logits is None else all_logits,
        logits_pitch=shape.outputs if all_logits is None else steps * shape.outputs,
        logits_step=0 if all_logits is None else shape.outputs,
        batch=batch,
        steps=steps,
        window=window,
        hidden_size=shape.hidden_size,
        layers=shape.layers,
        fc_layers=len(shape.fc_sizes),
        outputs=shape.outputs,
        output=OUTPUTS.index(shape.output),
        label_feedback=int(shape.label_feedback),
        skip=int(shape.skip),
        uniforms_a_sample=shape.uniforms,
        columns=sum(shape.group_columns),
        interpolated_groups=shape.interpolated,
        groups=plan.groups,
        blocks=plan.blocks,
        waits=waits,
        shared_operands=plan.shared_operands,
        shared_sampler=plan.shared_sampler,
    )
    for name in ("states", "features", "activations"):
        for i, offset in enumerate(getattr(layout, name)):
            getattr(arguments, name)[i] = workspace + offset
    for i, (name, bias) in enumerate(zip(MATRICES, BIASES, strict=True)):
        if name in plan.matrices:
            one = plan.matrices[name]
            arguments.matrices[i] = Matrix(
                address[name], address.get(bias or ""), one.rows, one.columns, one.resident, one.shared_offset
            )
    _fill_conditioning(arguments, shape)
    return arguments


_POINTERS = tuple(
    name
    for name, kind, *_ in SequenceArguments._fields_
    if kind is ctypes.c_void_p and name not in ("counters", "skipped", "logits")
)


def _fill_conditioning(arguments: SequenceArguments, shape: SequenceShape) -> None:
    interpolated = 0
    for group, held in enumerate(shape.group_held):
        arguments.column_groups[group].held = int(held)
        arguments.column_groups[group].interpolated = 0 if held else interpolated
        interpolated += not held
    firsts = dict(zip(shape.places, shape.first_columns(), strict=True))
    for i, place in enumerate(PLACES):
        for group in range(GROUPS_OF_COLUMNS):
            arguments.places[i].first_column[group] = firsts.get(place, {}).get(group, -1)
