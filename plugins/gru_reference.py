"""What ``CustomGRUPlugin`` computes, in numpy: the reference of its kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def gru_cell(
    gates: FloatArray, hidden: FloatArray, recurrent_weight: FloatArray, recurrent_bias: FloatArray
) -> FloatArray:
    """One GRU cell behind its input product (Cho et al., 2014, in the form of PyTorch and cuDNN).

    Args:
        gates: [B, 3H], the input's share of the reset, update and new gates, its bias included.
        hidden: [B, H].
        recurrent_weight: [3H, H].
        recurrent_bias: [3H].

    Returns:
        The new hidden state, float32 [B, H].
    """
    recurrent = hidden @ recurrent_weight.T + recurrent_bias
    input_reset, input_update, input_new = np.split(gates, 3, axis=1)
    hidden_reset, hidden_update, hidden_new = np.split(recurrent, 3, axis=1)
    reset = _sigmoid(input_reset + hidden_reset)
    update = _sigmoid(input_update + hidden_update)
    new = np.tanh(input_new + reset * hidden_new)
    following: FloatArray = (new + update * (hidden - new)).astype(np.float32)
    return following


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)  # does not overflow
