"""What kernels are launched with: the structures of ``kernels/*_arguments.h``, field by field."""

from __future__ import annotations

import ctypes

MATRICES = ("recurrent_weight_0", "input_weight_1", "recurrent_weight_1", "fc_weight_0", "fc_weight_1", "output_weight")
"""In the order of the kernels' ``MatrixName``; the names of `wavernn_trt.export.operators.SequenceShape`'s operands."""
BIASES = ("recurrent_bias_0", None, "recurrent_bias_1", "fc_bias_0", "fc_bias_1", "output_bias")
"""Of each matrix; input_weight_1's is gates_bias_1, which has a place of its own."""
GROUPS_OF_COLUMNS = 2
"""Of conditioning, at most."""

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
