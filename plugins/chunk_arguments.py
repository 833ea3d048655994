"""What every kernel that decodes a chunk is launched with, whatever else it needs."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from wavernn_trt.export.operators import OUTPUTS, PLACES, SEQUENCE_OPERATOR, SequenceShape
from wavernn_trt.plugins.arguments import BIASES, GROUPS_OF_COLUMNS, MATRICES, Matrix, SequenceArguments
from wavernn_trt.plugins.sequence_plan import VECTOR_BYTES


def chunk_arguments(
    shape: SequenceShape,
    sizes: tuple[int, int, int],
    pointers: Sequence[int],
    workspace: int,
    all_logits: int | None,
) -> tuple[SequenceArguments, Mapping[str, int]]:
    """The part of a launch's arguments that follows from the model and the operands.

    Args:
        shape: the model.
        sizes: streams B, steps T, rows of a window W.
        pointers: addresses of ``shape.inputs()`` and then of ``shape.outputs_of_node()``.
        workspace: address of the kernel's own memory.
        all_logits: address of float32 [B, T, outputs], where every step's logits are to be kept.

    Returns:
        The arguments, those of the grid and the workspace left empty; and each operand's address by its name.

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
    arguments = SequenceArguments(
        **{name: address.get(name) for name in _POINTERS},
        logits=all_logits,
        logits_pitch=0 if all_logits is None else steps * shape.outputs,
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
    )
    _fill_conditioning(arguments, shape)
    return arguments, address


def matrix_argument(
    address: Mapping[str, int], name: str, rows: int, columns: int, resident: int, shared_offset: int
) -> Matrix:
    """A weight matrix and its bias; see kernels/sequence_arguments.h.

    Args:
        address: of the operands, by name.
        name: of `wavernn_trt.plugins.arguments.MATRICES`.
        rows: of the matrix.
        columns: of the matrix.
        resident: how much of a block's share is copied to shared memory.
        shared_offset: to where, in bytes.

    Raises:
        ValueError: the matrix is not aligned.
    """
    if address[name] % VECTOR_BYTES:
        raise ValueError(
            f"{SEQUENCE_OPERATOR}: found {name} at {address[name]:#x}, expected a multiple of {VECTOR_BYTES}: its rows "
            "are read that many bytes at a time"
        )
    bias = BIASES[MATRICES.index(name)]
    return Matrix(address[name], address.get(bias or ""), rows, columns, resident, shared_offset)


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
