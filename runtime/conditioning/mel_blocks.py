"""Rows of conditioning of any block of a mel, with the bits of a run over the whole mel.

Blocks of `BLOCK_FRAMES` frames lie at fixed places. A convolutional conditioner reads a block and some frames around
it. A recurrent one that reads in both directions depends on all frames, but through its states alone: they are computed
once, block after block, and kept at the blocks' edges.
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
"""Frames of a block. With the frames around it that is more than 64 columns, from which on ONNX Runtime's matrix
products (MLAS, one thread) sum in the same parts however many there are: a convolution's rows are then those of longer
mels bit for bit. A recurrent network's rows are so with blocks of any length."""
_FARTHEST_FRAME = 32
"""Frames; published models read two."""
_LOUD = 1e3
"""A frame so far out of range moves every channel that it reaches by more than rounding."""


class MelBlocks(Protocol):
    """One mel, of which blocks of rows can be had in any order."""

    @property
    def frames(self) -> int:
        """Of the mel."""

    def rows(self, number: int) -> FloatArray:
        """The rows of a block, [up to BLOCK_FRAMES, columns]; several threads may call it at once."""


def receptive_field(model: ModelConfig, n_mels: int, condition: Condition) -> tuple[int, ...]:
    """Measures how many frames before or behind its own a convolution's row depends on, for each column group.

    A frame is set to random numbers and to their negatives: a rectifier that is shut for one is open for the other.

    Args:
        model: names the groups, and their margin.
        n_mels: bins of a mel.
        condition: the conditioner.

    Raises:
        VocoderError: rows depend on frames too far away.
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
    """Each block is a run over its frames and those that its rows depend on to either side.

    All runs have the same length, with zeros where the mel has no frames, so that a row's bits depend on the mel alone.
    """

    def __init__(self, mel: FloatArray, condition: Condition, field: int, margin: int) -> None:
        """Prepares; the conditioner is not run yet.

        Args:
            mel: float32 [n_mels, N]; not changed by the caller afterwards.
            condition: the conditioner; may be called by several threads at once.
            field: frames to either side that a row depends on.
            margin: rows of conditioning before the first frame's.
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
    """A recurrent conditioner with its states as inputs and outputs; several threads may call it at once."""

    @property
    def layers(self) -> int:
        """Recurrent layers, L."""

    @property
    def size(self) -> int:
        """Width of a state, H."""

    def __call__(self, mel: FloatArray, states: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Runs over a block.

        Args:
            mel: [n_mels, K].
            states: [L, 2, H]: of the forward direction before the first frame, of the backward one behind the last.

        Returns:
            Rows [K, columns], and states [L, 2, H]: of the forward direction behind the last frame, of the backward one
            before the first.
        """


@runtime_checkable
class ConditionsBlocks(Protocol):
    """An executor that may have a `BlockConditioner`."""

    @property
    def block_conditioner(self) -> BlockConditioner | None:
        """The model's; ``None`` where its conditioner has no states, or its directory no graph with them."""


class RecurrentBlocks:
    """Each block is a run from the states at its edges, which are computed when this is made.

    A layer's forward states need the rows of the layer below, and so that layer's backward states. Sweeps over all
    blocks alternate: each gives the states of its direction for one layer more than the sweep before it gave those of
    the other. L layers take L + 1 sweeps. States take 16 * L * H bytes a block.
    """

    def __init__(self, mel: FloatArray, condition: BlockConditioner) -> None:
        """Runs the sweeps.

        Args:
            mel: float32 [n_mels, N]; not changed by the caller afterwards.
            condition: the conditioner.
        """
        self._mel = mel
        self._condition = condition
        self.frames = int(mel.shape[1])
        blocks = -(-self.frames // BLOCK_FRAMES)
        # At edge i, which is before block i: [edge, layer, H].
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
    """The first frame of a block, and one behind its last."""
    first = number * BLOCK_FRAMES
    return first, min(first + BLOCK_FRAMES, frames)
