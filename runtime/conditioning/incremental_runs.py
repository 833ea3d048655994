"""Plans the runs of the conditioner for a mel whose last frames have not arrived.

The frames that a run reads depend on its position only, not on how or when the frames arrive: the bits of a row then do
not depend on how a mel is cut into pieces.

If the conditioner is a convolution (fatchord's layout), all runs have the same length, with zeros for frames that do
not exist or have not arrived, as in the conditioner's own padding. If it is a bidirectional recurrent network (univoc),
a block is conditioned with a limited number of frames before and after it. This is an approximation; the README gives
its cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.mel_blocks import BLOCK_FRAMES, Condition, receptive_field
from wavernn_trt.runtime.errors import VocoderError

RECURRENT_BEFORE = 32
"""Context frames before a recurrent network's block; more had no measurable effect."""
RECURRENT_LOOKAHEAD = 19
"""Default look-ahead in frames: blocks of 4 with 16 frames after each, 200 ms at a hop of 12.5 ms. The cross-entropy of
the shipped voice then differs from that of the whole mel by about 0.01 bits per sample in either direction; 12 frames
in all cost 0.01 more, 8 cost 0.02, and none 0.6."""
_MOST_RECURRENT_FRAMES = 4
"""Maximum frames of a block. Cost relative to the whole mel in one run: 13 times with 4 frames, 49 times with 1."""


@dataclass(frozen=True)
class Run:
    """One run of the conditioner."""

    first: int
    """First frame to read; negative numbers are zeros before the mel."""
    stop: int
    """Number after the last frame to read; frames that have not arrived are zeros."""
    rows: range
    """Frames whose rows are taken from this run."""


class IncrementalRuns(Protocol):
    """Plan of the runs that condition the arriving mels of one model."""

    @property
    def lookahead(self) -> int:
        """Maximum number of frames that must follow a frame before its samples can be drawn, until the mel ends."""

    def runs(self, done: int, frames: int, ended: bool) -> Iterator[Run]:
        """Yields the runs to make after frames have arrived.

        Args:
            done: number of final rows, the minimum of `complete` before.
            frames: number of frames so far.
            ended: whether the mel has ended.
        """

    def complete(self, frames: int, ended: bool) -> tuple[int, ...]:
        """Returns, for each column group, the number of frames whose rows are final after `runs` for ``frames``."""

    def reads_from(self, done: int) -> int:
        """Returns the first frame that a later run can read."""


class ConvolutionalRuns:
    """Runs of one length at fixed positions, zero-padded; the rows are those of a run over the whole mel."""

    def __init__(self, model: ModelConfig, field: tuple[int, ...]) -> None:
        """Computes the look-ahead.

        Args:
            model: the model's configuration.
            field: for each column group, the frames on either side that a row depends on.
        """
        self._field = field
        self._widest = max(field)
        self.lookahead = max(
            frames + (model.margin if group.expansion == "kernel" else 0)
            for frames, group in zip(field, model.groups, strict=True)
        )

    def runs(self, done: int, frames: int, ended: bool) -> Iterator[Run]:
        """See `IncrementalRuns`; none at the end of the mel, as the rows are final then."""
        if ended:
            return
        for block in range(done // BLOCK_FRAMES, -(-frames // BLOCK_FRAMES)):
            first = block * BLOCK_FRAMES
            stop = first + BLOCK_FRAMES
            rows = range(max(done, first), min(frames, stop))
            yield Run(first - self._widest, stop + self._widest, rows)

    def complete(self, frames: int, ended: bool) -> tuple[int, ...]:
        return tuple(frames if ended else max(0, frames - field) for field in self._field)

    def reads_from(self, done: int) -> int:
        return done // BLOCK_FRAMES * BLOCK_FRAMES - self._widest


@dataclass(frozen=True)
class RecurrentRuns:
    """Blocks with context. The last frames form one block; a mel no longer than the first block is one run."""

    groups: int
    """Number of column groups."""
    block: int
    """Frames whose rows are taken from a run."""
    before: int
    """Context frames before the block."""
    after: int
    """Context frames after the block."""

    @property
    def lookahead(self) -> int:
        return self.block - 1 + self.after

    def runs(self, done: int, frames: int, ended: bool) -> Iterator[Run]:
        while done + self.block + self.after <= frames:
            rows = range(done, done + self.block)
            yield Run(max(0, done - self.before), rows.stop + self.after, rows)
            done = rows.stop
        if ended and done < frames:
            yield Run(max(0, done - self.before), frames, range(done, frames))

    def complete(self, frames: int, ended: bool) -> tuple[int, ...]:
        done = frames if ended else max(0, (frames - self.after) // self.block * self.block)
        return (done,) * self.groups

    def reads_from(self, done: int) -> int:
        return max(0, done - self.before)


def incremental_runs(
    model: ModelConfig, n_mels: int, condition: Condition, lookahead: int | None = None
) -> IncrementalRuns:
    """Returns the run plan of a model; runs the conditioner a few times on short mels.

    Args:
        model: the model's configuration.
        n_mels: number of mel bins.
        condition: the conditioner.
        lookahead: frames to wait for, if the model leaves a choice (univoc): more make the rows closer to those of the
            whole mel. ``None`` is `RECURRENT_LOOKAHEAD` for univoc, and the conditioner's receptive field for others.

    Raises:
        VocoderError: rows of this model depend on the mel's length, or the look-ahead is not possible.
    """
    if any(group.expansion == "linear" for group in model.groups):
        raise VocoderError(
            "mel: found frames that arrive one by one, expected the whole mel: this model interpolates between its "
            "first and its last frame, so that every sample depends on their number; collect the frames and pass "
            "np.concatenate(pieces, axis=1)"
        )
    if lookahead is not None and (
        isinstance(lookahead, bool) or not isinstance(lookahead, int | np.integer) or lookahead < 0
    ):
        raise VocoderError(f"lookahead: found {lookahead!r}, expected a number of frames from 0 on")
    if model.family == "univoc":
        frames = RECURRENT_LOOKAHEAD if lookahead is None else int(lookahead)
        # With a shorter look-ahead, each frame after the block matters more: blocks are shorter then.
        block = max(1, min(_MOST_RECURRENT_FRAMES, frames // 4))
        return RecurrentRuns(len(model.groups), block, RECURRENT_BEFORE, frames - block + 1)
    runs = ConvolutionalRuns(model, receptive_field(model, n_mels, condition))
    if lookahead not in (None, runs.lookahead):
        raise VocoderError(
            f"lookahead: found {lookahead} frames, expected {runs.lookahead}, the frames that this model's conditioner "
            "reads; leave it out"
        )
    return runs
