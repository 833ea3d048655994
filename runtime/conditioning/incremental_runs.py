"""Which runs of the conditioner give the rows of a mel whose last frames have not arrived.

The frames that a run reads depend on its place alone, not on how or when the frames came: a row then has the same bits
however a mel is cut into pieces.

Where the conditioner is a convolution (fatchord's layout), every run has the same length, with zeros for frames that
do not exist or are not there yet, as the conditioner itself has them around a mel. Where it is a recurrent network
that reads all frames in both directions (univoc), a block is conditioned with some frames before and behind it, which
is an approximation; the README has what it costs.
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
"""Frames before a recurrent network's block: more change nothing that was measurable."""
RECURRENT_LOOKAHEAD = 19
"""Frames: blocks of 4, and 16 behind each, which is 200 ms at a hop of 12.5 ms. The shipped voice is then about 0.01
bits a sample from the whole mel, to either side; 12 frames in all cost 0.01 more, 8 0.02, and none 0.6."""
_MOST_RECURRENT_FRAMES = 4
"""Of a block: a run costs 13 times a block's share of the whole mel's, and a single frame's would cost 49 times."""


@dataclass(frozen=True)
class Run:
    """One run of the conditioner."""

    first: int
    """First frame that it reads; negative for zeros before the mel."""
    stop: int
    """One behind the last; frames that are not there yet are zeros."""
    rows: range
    """The frames whose rows are taken from it."""


class IncrementalRuns(Protocol):
    """The runs that condition the arriving mels of one model."""

    @property
    def lookahead(self) -> int:
        """Frames that must be there behind a frame before its samples can be drawn, at most, until the mel ends."""

    def runs(self, done: int, frames: int, ended: bool) -> Iterator[Run]:
        """The runs to make when frames have come.

        Args:
            done: rows that no further frame will change, as `complete` returned before.
            frames: of the mel so far.
            ended: whether there will be no more.
        """

    def complete(self, frames: int, ended: bool) -> tuple[int, ...]:
        """For each column group, of how many frames the rows are final once that many have come and were run."""

    def reads_from(self, done: int) -> int:
        """The first frame that a coming run can read."""


class ConvolutionalRuns:
    """Runs of one length at fixed places, with zeros for missing frames; rows are those of a run over the whole mel."""

    def __init__(self, model: ModelConfig, field: tuple[int, ...]) -> None:
        """Plans for a model.

        Args:
            model: its configuration.
            field: for each column group, the frames to either side that a row depends on.
        """
        self._field = field
        self._widest = max(field)
        self.lookahead = max(
            frames + (model.margin if group.expansion == "kernel" else 0)
            for frames, group in zip(field, model.groups, strict=True)
        )

    def runs(self, done: int, frames: int, ended: bool) -> Iterator[Run]:
        """See `IncrementalRuns`; at the mel's end rows are final as they are."""
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
    """Blocks with context. The last frames are one block; a mel that is no longer than the first block is run whole."""

    groups: int
    """Column groups."""
    block: int
    """Frames whose rows are taken from a run."""
    before: int
    """Frames that are run before them."""
    behind: int
    """Frames that are run behind them."""

    @property
    def lookahead(self) -> int:
        return self.block - 1 + self.behind

    def runs(self, done: int, frames: int, ended: bool) -> Iterator[Run]:
        while done + self.block + self.behind <= frames:
            rows = range(done, done + self.block)
            yield Run(max(0, done - self.before), rows.stop + self.behind, rows)
            done = rows.stop
        if ended and done < frames:
            yield Run(max(0, done - self.before), frames, range(done, frames))

    def complete(self, frames: int, ended: bool) -> tuple[int, ...]:
        done = frames if ended else max(0, (frames - self.behind) // self.block * self.block)
        return (done,) * self.groups

    def reads_from(self, done: int) -> int:
        return max(0, done - self.before)


def incremental_runs(
    model: ModelConfig, n_mels: int, condition: Condition, lookahead: int | None = None
) -> IncrementalRuns:
    """The runs for a model's arriving mels; runs the conditioner a few times over short mels.

    Args:
        model: its configuration.
        n_mels: bins of its mels.
        condition: its conditioner.
        lookahead: frames to wait for, where a model leaves a choice (univoc): with more, rows are closer to the whole
            mel's. ``None`` is `RECURRENT_LOOKAHEAD` there, and what the conditioner reads elsewhere.

    Raises:
        VocoderError: rows of this model depend on the mel's length, or it cannot do with that look-ahead.
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
        # The fewer frames there are to look ahead, the more each of them is worth, and the shorter blocks are.
        block = max(1, min(_MOST_RECURRENT_FRAMES, frames // 4))
        return RecurrentRuns(len(model.groups), block, RECURRENT_BEFORE, frames - block + 1)
    runs = ConvolutionalRuns(model, receptive_field(model, n_mels, condition))
    if lookahead not in (None, runs.lookahead):
        raise VocoderError(
            f"lookahead: found {lookahead} frames, expected {runs.lookahead}, which is what this model's conditioner "
            "reads; leave it out"
        )
    return runs
