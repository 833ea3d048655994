"""What ``CustomGRUPlugin`` computes, in numpy: the reference of its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import Precision
from wavernn_trt.plugins.rounding import product, round_to

FloatArray = NDArray[np.float32]


def gru_cell(
    gates: FloatArray,
    hidden: FloatArray,
    recurrent_weight: NDArray[Any],
    recurrent_bias: FloatArray,
    precision: Precision = "fp32",
) -> FloatArray:
    """One GRU cell behind its input product (Cho et al., 2014, in the form of PyTorch and cuDNN).

    Only the operands of the recurrent product are in the precision; sums, gates and state are float32.

    Args:
        gates: [B, 3H], the input's share of the reset, update and new gates, its bias included.
        hidden: [B, H].
        recurrent_weight: [3H, H], float32 or as `wavernn_trt.plugins.rounding.store` gives it.
        recurrent_bias: [3H].
        precision: of the recurrent product's operands.

    Returns:
        The new hidden state, float32 [B, H].
    """
    return gru_update(gates, product(hidden, round_to(recurrent_weight, precision), precision) + recurrent_bias, hidden)


def gru_update(gates: FloatArray, recurrent: FloatArray, hidden: FloatArray) -> FloatArray:
    """The rest of a cell, in float32: both shares of the gates [B, 3H] and the state [B, H] -> the new state [B, H]."""
    input_reset, input_update, input_new = np.split(gates, 3, axis=1)
    hidden_reset, hidden_update, hidden_new = np.split(recurrent, 3, axis=1)
    reset = _sigmoid(input_reset + hidden_reset)
    update = _sigmoid(input_update + hidden_update)
    new = np.tanh(input_new + reset * hidden_new)
    following: FloatArray = (new + update * (hidden - new)).astype(np.float32)
    return following


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)  # does not overflow
