"""The device memory that the resident kernels need beside their operands, and their launch arguments. Needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.arguments import MATRICES, ResidentArguments
from wavernn_trt.plugins.chunk_arguments import chunk_arguments, matrix_argument
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident_plan import PATCH_COLUMNS, ResidentPlan
from wavernn_trt.plugins.sequence_plan import MOST_GROUPS, WAITS
from wavernn_trt.plugins.workspace import COUNTER_BYTES

_ALIGNMENT = 256
_WORD_BYTES = 8
"""A word and its stamp."""


@dataclass(frozen=True)
class Mail:
    """Where each kind of words begins, counted in words; each is there twice, for even and odd steps."""

    states: tuple[int, ...]
    features: tuple[int, ...]
    activations: tuple[int, ...]
    logits: int
    previous: int
    words: int
    """In all."""


@dataclass(frozen=True)
class ResidentWorkspace:
    """Offsets in bytes from the beginning; counters come first, and the mail behind them."""

    mail: int
    cleared: int
    """Bytes from the beginning on that are to be zero before each launch."""
    skipped: int
    total: int
    """Bytes in all."""


def lay_out_mail(shape: SequenceShape, batch: int) -> Mail:
    """The words that a batch's blocks exchange."""
    used = 0

    def take(words_a_stream: int) -> int:
        nonlocal used
        offset, used = used, used + -(-2 * batch * words_a_stream // _ALIGNMENT) * _ALIGNMENT
        return offset

    def pairs(columns: int) -> int:
        return -(-columns // PATCH_COLUMNS) * PATCH_COLUMNS // 2

    states = tuple(take(pairs(shape.hidden_size)) for _ in range(shape.layers))
    features = tuple(take(pairs(shape.hidden_size)) for _ in range(shape.layers if shape.skip else 0))
    activations = tuple(take(pairs(size)) for size in shape.fc_sizes)
    logits, previous = take(-(-shape.outputs // 4) * 4), take(1)
    return Mail(states, features, activations, logits, previous, used)


def lay_out_resident(shape: SequenceShape, batch: int) -> ResidentWorkspace:
    """Where a batch's buffers lie, on any device."""
    counters = MOST_GROUPS * COUNTER_BYTES
    words = lay_out_mail(shape, batch).words
    skipped = counters + words * _WORD_BYTES
    total = skipped + (4 * batch * shape.hidden_size if shape.skip else 0)
    return ResidentWorkspace(counters, skipped, skipped, total)


def resident_arguments(
    shape: SequenceShape,
    precision: WeightPrecision,
    plan: ResidentPlan,
    sizes: tuple[int, int, int],
    pointers: Sequence[int],
    workspace: int,
    *,
    waits: int = WAITS,
    all_logits: int | None = None,
) -> ResidentArguments:
    """What a resident kernel is launched with.

    Args:
        shape: the model.
        precision: of its weights.
        plan: of this batch.
        sizes: streams B, steps T, rows of a window W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``, and in ``fp8`` then of each
            weight's scales.
        workspace: address of as many bytes as `lay_out_resident` says.
        waits: how often a thread looks for what has not come before it gives up.
        all_logits: address of float32 [B, T, outputs], where every step's logits are to be kept.

    Raises:
        ValueError: another number of pointers, a size below 1, or a workspace that is not aligned.
    """
    scaled = [name for name in MATRICES if name in plan.matrices] if precision == "fp8" else []
    operands = len(pointers) - len(scaled)
    common, address = chunk_arguments(shape, sizes, pointers[:operands], workspace, all_logits)
    layout, mail = lay_out_resident(shape, sizes[0]), lay_out_mail(shape, sizes[0])
    common.counters = workspace
    common.skipped = workspace + layout.skipped if shape.skip else None
    common.groups, common.blocks, common.waits = plan.groups, plan.blocks, waits
    common.shared_sampler = plan.shared_sampler
    for i, name in enumerate(MATRICES):
        if name in plan.matrices:
            one = plan.matrices[name]
            common.matrices[i] = matrix_argument(address, name, one.rows, one.columns, one.resident, one.shared_offset)
    arguments = ResidentArguments(
        s=common,
        mail=workspace + layout.mail,
        mail_logits=mail.logits,
        mail_previous=mail.previous,
        shared_meeting=plan.shared_meeting,
        shared_gates=plan.shared_gates,
        shared_logits=plan.shared_logits,
        shared_shares=plan.shared_shares,
        most_sets=plan.matrices[MATRICES[0]].sets,
    )
    for field in ("states", "features", "activations"):
        for i, offset in enumerate(getattr(mail, field)):
            getattr(arguments, f"mail_{field}")[i] = offset
    for name, scales in zip(scaled, pointers[operands:], strict=True):
        arguments.scales[MATRICES.index(name)] = scales
    return arguments
