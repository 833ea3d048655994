"""The device memory that the sequence kernel needs beside its operands, and its launch arguments. Needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import Precision, SequenceShape
from wavernn_trt.plugins.arguments import MATRICES, SequenceArguments
from wavernn_trt.plugins.chunk_arguments import chunk_arguments, matrix_argument
from wavernn_trt.plugins.sequence_plan import MOST_GROUPS, NUMBER_BYTES, WAITS, SequencePlan, padded

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
    arguments, address = chunk_arguments(shape, sizes, pointers, workspace, all_logits)
    layout = lay_out(shape, precision, sizes[0])
    arguments.counters = workspace
    arguments.skipped = workspace + layout.skipped
    if all_logits is None:
        arguments.logits, arguments.logits_pitch = workspace + layout.logits, shape.outputs
    arguments.groups, arguments.blocks, arguments.waits = plan.groups, plan.blocks, waits
    arguments.shared_operands, arguments.shared_sampler = plan.shared_operands, plan.shared_sampler
    for name in ("states", "features", "activations"):
        for i, offset in enumerate(getattr(layout, name)):
            getattr(arguments, name)[i] = workspace + offset
    for i, name in enumerate(MATRICES):
        if name in plan.matrices:
            one = plan.matrices[name]
            arguments.matrices[i] = matrix_argument(
                address, name, one.rows, one.columns, one.resident, one.shared_offset
            )
    return arguments
