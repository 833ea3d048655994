"""The arguments of kernel launches: the structures of ``kernels/*_arguments.h``, and what all chunk kernels share."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from wavernn_trt.export.operators import OUTPUTS, PLACES, SEQUENCE_OPERATOR, SequenceShape

THREADS = 256
"""Threads of a block; the kernels are compiled for it."""
MOST_GROUPS = 64
"""Groups of blocks; a workspace has room for the counters of as many."""
COUNTER_BYTES = 128
"""From one group's counter to the next's; see kernels/group.h."""
VECTOR_BYTES = 16
"""One vector load of a thread; rows in shared memory and in workspaces are padded to a multiple of it."""
PATCH_ROWS, PATCH_COLUMNS = 8, 32
"""Rows (or streams) and columns of a tensor core's operands; see kernels/patch.h."""
MATRICES = ("recurrent_weight_0", "input_weight_1", "recurrent_weight_1", "fc_weight_0", "fc_weight_1", "output_weight")
"""In the order of the kernels' ``MatrixName``; the names of `wavernn_trt.export.operators.SequenceShape`'s operands."""
BIASES = ("recurrent_bias_0", None, "recurrent_bias_1", "fc_bias_0", "fc_bias_1", "output_bias")
"""Of each matrix; input_weight_1's is gates_bias_1, which has a place of its own."""
GROUPS_OF_COLUMNS = 2
"""Of conditioning, at most."""


def has_gates(matrix: str) -> bool:
    """Whether a matrix of `MATRICES` has three rows for each unit, one a gate."""
    return matrix.startswith(("recurrent", "input"))


_LONG, _INT, _POINTER = ctypes.c_longlong, ctypes.c_int, ctypes.c_void_p


class GruArguments(ctypes.Structure):
    """See kernels/gru_arguments.h."""

    _fields_ = (
        ("gates", _POINTER),
        ("hidden", _POINTER),
        ("recurrent_weight", _POINTER),
        ("recurrent_bias", _POINTER),
        ("next_hidden", _POINTER),
        ("batch", _INT),
        ("hidden_size", _INT),
        ("unit_blocks", _INT),
    )


class Matrix(ctypes.Structure):
    """See kernels/sequence_arguments.h."""

    _fields_ = (
        ("weight", _POINTER),
        ("bias", _POINTER),
        ("rows", _INT),
        ("columns", _INT),
        ("resident", _INT),
        ("shared_offset", _INT),
    )


class ColumnGroup(ctypes.Structure):
    """See kernels/sequence_arguments.h."""

    _fields_ = (("held", _INT), ("interpolated", _INT))


class Place(ctypes.Structure):
    """See kernels/sequence_arguments.h."""

    _fields_ = (("first_column", _INT * GROUPS_OF_COLUMNS),)


class SequenceArguments(ctypes.Structure):
    """See kernels/sequence_arguments.h."""

    _fields_ = (
        ("conditioning", _POINTER),
        ("frame_index", _POINTER),
        ("interpolation", _POINTER),
        ("uniforms", _POINTER),
        ("previous", _POINTER),
        ("hidden", _POINTER),
        ("feedback", _POINTER),
        ("gates_bias_0", _POINTER),
        ("skip_column", _POINTER),
        ("skip_bias", _POINTER),
        ("gates_bias_1", _POINTER),
        ("samples", _POINTER),
        ("previous_out", _POINTER),
        ("hidden_out", _POINTER),
        ("counters", _POINTER),
        ("states", _POINTER * 2),
        ("features", _POINTER * 2),
        ("skipped", _POINTER),
        ("activations", _POINTER * 2),
        ("logits", _POINTER),
        ("logits_pitch", _LONG),
        ("logits_step", _LONG),
        ("matrices", Matrix * len(MATRICES)),
        ("column_groups", ColumnGroup * GROUPS_OF_COLUMNS),
        ("places", Place * 5),
        ("batch", _INT),
        ("steps", _INT),
        ("window", _INT),
        ("hidden_size", _INT),
        ("layers", _INT),
        ("fc_layers", _INT),
        ("outputs", _INT),
        ("output", _INT),
        ("label_feedback", _INT),
        ("skip", _INT),
        ("uniforms_a_sample", _INT),
        ("columns", _INT),
        ("interpolated_groups", _INT),
        ("groups", _INT),
        ("blocks", _INT),
        ("waits", _INT),
        ("shared_operands", _INT),
        ("shared_sampler", _INT),
    )


class ResidentArguments(ctypes.Structure):
    """See kernels/resident_arguments.h."""

    _fields_ = (
        ("s", SequenceArguments),
        ("scales", _POINTER * len(MATRICES)),
        ("mail", _POINTER),
        ("mail_states", _LONG * 2),
        ("mail_features", _LONG * 2),
        ("mail_activations", _LONG * 2),
        ("mail_logits", _LONG),
        ("mail_previous", _LONG),
        ("shared_meeting", _INT),
        ("shared_gates", _INT),
        ("shared_logits", _INT),
        ("shared_shares", _INT),
        ("most_sets", _INT),
    )


class SteppedArguments(ctypes.Structure):
    """See kernels/stepped_arguments.h."""

    _fields_ = (
        ("s", SequenceArguments),
        ("scales", _POINTER * len(MATRICES)),
        ("fragments", _POINTER * len(MATRICES)),
        ("next_step", _POINTER),
        ("step", _POINTER),
        ("step_logits", _POINTER),
        ("operands", _POINTER * 2),
        ("matrices", _INT * 2),
        ("results", _POINTER),
        ("features", _POINTER),
    )


ChunkSizes = tuple[int, int, int]
"""Streams B, steps T and rows of a window W."""


class Offsets:
    """Places buffers behind each other, each at a multiple of an alignment."""

    def __init__(self, alignment: int) -> None:
        """Starts at 0."""
        self._alignment = alignment
        self.used = 0
        """Where the next buffer begins: the size of all so far."""

    def take(self, size: int) -> int:
        """Returns the offset of a new buffer."""
        offset, self.used = self.used, self.used + -(-size // self._alignment) * self._alignment
        return offset


def chunk_arguments(
    shape: SequenceShape,
    sizes: ChunkSizes,
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
        name: one of `MATRICES`.
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
