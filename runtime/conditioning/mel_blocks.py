"""Conditioning rows of any block of a mel, bit-identical to a run over the whole mel.

Blocks of `BLOCK_FRAMES` frames have fixed positions. A convolutional conditioner reads a block and some frames around
it. A bidirectional recurrent conditioner depends on all frames, but only through its states: they are computed once,
block after block, and stored at the block edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import VocoderError

Condition = Callable[[FloatArray], FloatArray]
"""Runs a conditioner: mel [n_mels, N] -> rows [N + 2 * margin, columns]."""

BLOCK_FRAMES = 64
"""Frames of a block. With the frames around it there are more than 64 columns; above 64, the summation order of ONNX
Runtime's matrix products (MLAS, one thread) does not depend on the number of columns, so that a convolution's rows are
bit-identical to those of longer mels. For a recurrent network, this holds with blocks of any length."""
_FARTHEST_FRAME = 32
"""Maximum receptive field in frames; published models read two."""
_LOUD = 1e3
"""Amplitude of the test frame: large enough to change every channel that it reaches by more than rounding."""


class MelBlocks(Protocol):
    """Blocks of conditioning rows of one mel, computed in any order."""

    @property
    def frames(self) -> int:
        """Number of frames of the mel."""

    def rows(self, number: int) -> FloatArray:
        """Returns the rows of a block, [up to BLOCK_FRAMES, columns]; thread-safe."""


def receptive_field(model: ModelConfig, n_mels: int, condition: Condition) -> tuple[int, ...]:
    """Measures the receptive field of a convolution's row, in frames on either side, for each column group.

    One frame is set to random numbers and to their negatives, as a rectifier that is zero for one passes the other.

    Args:
        model: has the column groups and their margin.
        n_mels: number of mel bins.
        condition: the conditioner.

    Raises:
        VocoderError: the receptive field is too large.
    """
    middle = _FARTHEST_FRAME + 1
    silence = np.zeros((n_mels, 2 * middle + 1), np.float32)
    rows = condition(silence)
    moved = np.zeros(rows.shape, bool)
    random = np.random.default_rng(0)
    for _ in range(2):
        frame = _LOUD * random.standard_normal(n_mels).astype(np.float32)
        for sign in (1, -1):
            mel = silence.copy()
            mel[:, middle] = sign * frame
            moved |= condition(mel) != rows
    field = []
    edges = np.cumsum([0, *(group.columns for group in model.groups)])
    for first, stop in itertools.pairwise(edges):
        touched = np.flatnonzero(moved[:, first:stop].any(axis=1)) - model.margin - middle
        field.append(int(np.abs(touched).max(initial=0)))
    if max(field) > _FARTHEST_FRAME:
        raise VocoderError(
            f"mel: found frames that arrive one by one, expected the whole mel: this model's conditioner reads more "
            f"than {_FARTHEST_FRAME} frames to either side; collect the frames and pass np.concatenate(pieces, axis=1)"
        )
    return tuple(field)


class ConvolutionBlocks:
    """`MelBlocks` of a convolution: each block is a run over its frames and the receptive field around them.

    All runs have the same length, with zeros outside the mel, so that a row's bits depend on the mel only.
    """

    def __init__(self, mel: FloatArray, condition: Condition, field: int, margin: int) -> None:
        """Does not run the conditioner.

        Args:
            mel: float32 [n_mels, N]; must not change afterwards.
            condition: the conditioner; thread-safe.
            field: frames on either side that a row depends on.
            margin: conditioning rows before the row of the first frame.
        """
        self._mel = mel
        self._condition = condition
        self._field = field
        self._margin = margin
        self.frames = int(mel.shape[1])

    def rows(self, number: int) -> FloatArray:
        first, stop = edges(number, self.frames)
        read = np.zeros((len(self._mel), BLOCK_FRAMES + 2 * self._field), np.float32)
        begin = max(0, first - self._field)
        there = self._mel[:, begin : min(self.frames, first + BLOCK_FRAMES + self._field)]
        offset = begin - (first - self._field)
        read[:, offset : offset + there.shape[1]] = there
        skipped = self._field + self._margin
        return self._condition(read)[skipped : skipped + stop - first]


class BlockConditioner(Protocol):
    """A recurrent conditioner with its states as inputs and outputs; thread-safe."""

    @property
    def layers(self) -> int:
        """Number of recurrent layers, L."""

    @property
    def size(self) -> int:
        """Size of a state, H."""

    def __call__(self, mel: FloatArray, states: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Runs the conditioner over a block.

        Args:
            mel: [n_mels, K].
            states: [L, 2, H]: forward states before the first frame, backward states after the last.

        Returns:
            Rows [K, columns], and states [L, 2, H]: forward states after the last frame, backward states before the
            first.
        """


@runtime_checkable
class ConditionsBlocks(Protocol):
    """Executor that may have a `BlockConditioner`."""

    @property
    def block_conditioner(self) -> BlockConditioner | None:
        """The block conditioner; ``None`` if there are no states, or no graph with them in the directory."""


class RecurrentBlocks:
    """`MelBlocks` of a recurrent network: each block is a run from the states at its edges, computed in `__init__`.

    A layer's forward states need the outputs of the layer below, and so that layer's backward states. Sweeps over all
    blocks alternate between the directions; each sweep completes the states of one more layer than the sweep before.
    L layers take L + 1 sweeps. The states take 16 * L * H bytes per block.
    """

    def __init__(self, mel: FloatArray, condition: BlockConditioner) -> None:
        """Runs the sweeps.

        Args:
            mel: float32 [n_mels, N]; must not change afterwards.
            condition: the conditioner.
        """
        self._mel = mel
        self._condition = condition
        self.frames = int(mel.shape[1])
        blocks = -(-self.frames // BLOCK_FRAMES)
        # [edge, layer, H]; edge i is before block i.
        self._forward = np.zeros((blocks + 1, condition.layers, condition.size), np.float32)
        self._backward = np.zeros_like(self._forward)
        for sweep in range(condition.layers + 1):
            for number in range(blocks) if sweep % 2 else reversed(range(blocks)):
                _, states = self._run(number)
                if sweep % 2:
                    self._forward[number + 1] = states[:, 0]
                else:
                    self._backward[number] = states[:, 1]

    def rows(self, number: int) -> FloatArray:
        return self._run(number)[0]

    def _run(self, number: int) -> tuple[FloatArray, FloatArray]:
        first, stop = edges(number, self.frames)
        states: NDArray[np.float32] = np.stack([self._forward[number], self._backward[number + 1]], axis=1)
        return self._condition(self._mel[:, first:stop], states)


def edges(number: int, frames: int) -> tuple[int, int]:
    """Returns the first frame of a block, and the number after its last."""
    first = number * BLOCK_FRAMES
    return first, min(first + BLOCK_FRAMES, frames)
