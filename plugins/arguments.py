"""Arguments of kernel launches: the structures of ``kernels/*_arguments.h`` and the fields that all families share."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wavernn_trt.export.operators import OUTPUTS, PLACES, SEQUENCE_OPERATOR, SequenceShape

THREADS = 256
"""Threads per block; the kernels are compiled for this number."""
MOST_GROUPS = 64
"""Maximum number of groups of blocks; a workspace has a counter for each."""
COUNTER_BYTES = 128
"""Distance between the counters of two groups; see kernels/group.h."""
VECTOR_BYTES = 16
"""Bytes of one vector load of a thread; rows in shared memory and in workspaces are padded to a multiple of it."""
PATCH_ROWS, PATCH_COLUMNS = 8, 32
"""Rows (or streams) and columns of a patch, the operand of a tensor core; see kernels/patch.h."""
MATRICES = ("recurrent_weight_0", "input_weight_1", "recurrent_weight_1", "fc_weight_0", "fc_weight_1", "output_weight")
"""Operand names of the matrices, in the order of ``MatrixName`` in kernels/sequence_arguments.h."""
BIASES = ("recurrent_bias_0", None, "recurrent_bias_1", "fc_bias_0", "fc_bias_1", "output_bias")
"""Bias of each matrix. The bias of input_weight_1 is gates_bias_1, which has a field of its own."""
GROUPS_OF_COLUMNS = 2
"""Maximum number of column groups of the conditioning."""


def has_gates(matrix: str) -> bool:
    """Whether a matrix of `MATRICES` has three rows for each unit, one for each gate."""
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
"""Streams B, steps T and window rows W."""


class Offsets:
    """Offsets of consecutive buffers, each aligned."""

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self.used = 0
        """Total size of all buffers so far; the next buffer begins here."""

    def take(self, size: int) -> int:
        """Returns the offset of a new buffer."""
        offset, self.used = self.used, self.used + -(-size // self._alignment) * self._alignment
        return offset


@dataclass(frozen=True)
class MatrixPlan:
    """One matrix, divided among the blocks of a group in sets of rows."""

    rows: int
    columns: int
    set_rows: int
    """Rows of a set, which one block computes together: the gates of units, or neighbouring rows."""
    sets: int
    """Number of sets in the largest share of a block."""
    resident: int
    """Sets of a block that are copied to shared memory; the others are read from global memory in every step."""
    shared_offset: int
    """Offset of the resident sets in shared memory, in bytes."""
    set_bytes: int
    """Size of one set in shared memory."""


def chunk_arguments(
    shape: SequenceShape,
    sizes: ChunkSizes,
    pointers: Sequence[int],
    workspace: int,
    all_logits: int | None,
) -> tuple[SequenceArguments, Mapping[str, int]]:
    """Returns the launch arguments that follow from the model and the operands.

    Args:
        shape: the model.
        sizes: streams B, steps T, window rows W.
        pointers: addresses of ``shape.inputs()``, then of ``shape.outputs_of_node()``.
        workspace: address of the kernel's workspace.
        all_logits: address of float32 [B, T, outputs] for the logits of all steps; None keeps none.

    Returns:
        The arguments, with the fields of the grid and of the workspace empty; and operand addresses by name.

    Raises:
        ValueError: wrong number of pointers, a size below 1, or a workspace that is not aligned.
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


def set_matrix(
    arguments: SequenceArguments,
    address: Mapping[str, int],
    name: str,
    size: tuple[int, int],
    resident: int = 0,
    shared_offset: int = 0,
) -> None:
    """Sets the argument of a weight matrix and its bias; see ``Matrix`` in kernels/sequence_arguments.h.

    Args:
        arguments: changed in place.
        address: operand addresses by name.
        name: one of `MATRICES`.
        size: rows and columns.
        resident: sets of a block's share that are copied to shared memory.
        shared_offset: their offset in shared memory, in bytes.

    Raises:
        ValueError: the matrix is not aligned.
    """
    if address[name] % VECTOR_BYTES:
        raise ValueError(
            f"{SEQUENCE_OPERATOR}: found {name} at {address[name]:#x}, expected a multiple of {VECTOR_BYTES}: its rows "
            "are read that many bytes at a time"
        )
    index = MATRICES.index(name)
    bias = address.get(BIASES[index] or "")
    arguments.matrices[index] = Matrix(address[name], bias, *size, resident, shared_offset)


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
