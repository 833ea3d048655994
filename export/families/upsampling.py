"""Fatchord's upsampling network as one periodic operator.

For each factor ``s`` the network repeats each column ``s`` times and filters along time with one kernel of ``2 s + 1``
taps for all bins. This is linear and the same for every frame, so a sample depends only on its position inside its
frame and on a few neighbouring frames, and one small table of weights replaces the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wavernn_trt.export.config import LONGEST_HOP
from wavernn_trt.export.errors import CheckpointError


def factor_of(kernel: Tensor) -> int:
    """Returns the number of repetitions of the stage before this kernel."""
    return (kernel.numel() - 1) // 2


def upsample(signal: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Runs the network: [B, 1, T] -> [B, 1, T * hop_length]."""
    for kernel in kernels:
        factor = factor_of(kernel)
        signal = signal.repeat_interleave(factor, dim=2)
        signal = functional.conv1d(signal, kernel.reshape(1, 1, -1), padding=factor)
    return signal


def periodic_operator(kernels: Sequence[Tensor], pad: int) -> NDArray[np.float32]:
    """Returns the table of weights that equals upsampling a mel padded by ``pad`` zero frames and cutting them off.

    Args:
        kernels: each stage's taps, ``2 * factor + 1`` of them, in any shape.
        pad: zero frames on both sides, at least 1.

    Returns:
        float32 [hop_length, 2 * margin + 1]: the weights of frames f - margin … f + margin at each position inside
        frame f. ``margin`` is at least 1, and the smallest that includes all weights other than zero.

    Raises:
        CheckpointError: the network treats frames differently, so no such table exists.
    """
    factors = [factor_of(kernel) for kernel in kernels]
    hop_length = math.prod(factors)
    if hop_length > LONGEST_HOP:
        raise CheckpointError(
            f"upsampling factors {tuple(factors)}: found {hop_length} samples a frame, expected at most {LONGEST_HOP}"
        )
    # Each stage extends the reach by one of its columns, of which a frame has the product of the previous factors.
    reach = math.ceil(sum(1 / math.prod(factors[:stage]) for stage in range(len(factors))))
    frames = 4 * reach + 1
    impulses = functional.pad(torch.eye(frames, dtype=torch.float64), (pad, pad)).unsqueeze(1)
    response = upsample(impulses, [kernel.double() for kernel in kernels])
    response = response[:, 0, pad * hop_length : (pad + frames) * hop_length]
    by_frame = response.reshape(frames, frames, hop_length).numpy()  # [impulse, frame, position]

    centre = 2 * reach
    used = np.flatnonzero(np.any(by_frame[:, centre] != 0, axis=1))
    margin = max(1, int(np.abs(used - centre).max(initial=0)))
    operator = by_frame[centre - margin : centre + margin + 1, centre].T  # [hop, 2 margin + 1]

    expected = np.zeros_like(by_frame)
    for frame in range(frames):
        for row in range(-margin, margin + 1):
            if 0 <= frame + row < frames:
                expected[frame + row, frame] = operator[:, row + margin]
    if np.abs(by_frame - expected).max() > 1e-9 * max(1.0, np.abs(operator).max()):
        raise CheckpointError(
            f"upsampling factors {tuple(factors)} with {pad} frames of padding: the first and last frames of an "
            "utterance are upsampled unlike the others, expected all alike; use factors of at least 2"
        )
    return operator.astype(np.float32)
