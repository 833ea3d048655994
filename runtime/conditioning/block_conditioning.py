"""The conditioning of one long mel, computed block by block shortly before its streams read it."""

from __future__ import annotations

import threading
from functools import partial
from weakref import WeakValueDictionary

import numpy as np

from wavernn_trt.runtime.conditioning.mel_blocks import BLOCK_FRAMES, MelBlocks
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, FloatArray, Want, Window

HeldBlocks = WeakValueDictionary[int, FloatArray]
"""Rows of the blocks that any stream of an utterance holds now, by the block's number."""


def held_rows(windows: ConditioningWindows) -> int:
    """The most rows that one stream holds: the blocks that a window touches, and the next one."""
    return (2 + -(-(windows.rows - 1) // BLOCK_FRAMES)) * BLOCK_FRAMES


class BlockConditioning:
    """A `Conditioning` whose rows are computed block by block.

    A stream reads forward; it holds the blocks of its last window and the next one. Streams of one utterance (folds)
    share the blocks that any of them holds.
    """

    error: BaseException | None = None

    def __init__(
        self,
        windows: ConditioningWindows,
        blocks: MelBlocks,
        *,
        shared: HeldBlocks | None = None,
        want: Want | None = None,
    ) -> None:
        """Prepares; no block's rows are computed yet.

        Args:
            windows: lays out what a chunk reads.
            blocks: computes them.
            shared: the blocks that other streams of the utterance hold.
            want: see `for_stream`.
        """
        self._windows = windows
        self._blocks = blocks
        self._frames = blocks.frames
        self._shared = HeldBlocks() if shared is None else shared
        self._want = want
        self._lock = threading.Lock()
        self._held: dict[int, FloatArray] = {}  # with the lock
        self._asked: set[int] = set()  # with the lock: blocks whose computation was handed over
        self.steps: int | None = self._frames * windows.hop_length

    def for_stream(self, want: Want | None) -> BlockConditioning:
        """See `Conditioning`. The new one holds blocks of its own; without ``want``, `window` computes them."""
        return BlockConditioning(self._windows, self._blocks, shared=self._shared, want=want)

    @property
    def held(self) -> int:
        """Rows that this stream holds."""
        with self._lock:
            return sum(map(len, self._held.values()))

    def hold(self, number: int) -> None:
        """Computes a block, unless some stream of the utterance holds it already, and holds it."""
        rows = self._shared.get(number)
        if rows is None:
            rows = self._shared[number] = self._blocks.rows(number)
        with self._lock:
            self._held[number] = rows
            self._asked.discard(number)

    def ready(self, start: int) -> bool:
        """See `Conditioning`. Blocks that are missing, the one after the window included, are handed to ``want``."""
        if self._want is None:
            return True
        needed = self._touched(start)
        with self._lock:
            self._release(needed.start)
            missing = {number for number in range(needed.start, needed.stop + 1) if self._exists(number)}
            missing -= self._held.keys() | self._asked
            for number in list(missing):
                if (rows := self._shared.get(number)) is not None:
                    self._held[number] = rows
                    missing.remove(number)
            self._asked |= missing
            able = all(number in self._held for number in needed)
        for number in sorted(missing):
            self._want(partial(self.hold, number))
        return able

    def window(self, start: int) -> Window:
        """See `Conditioning`; the stream reads nothing before it any more."""
        needed = self._touched(start)
        with self._lock:
            missing = [number for number in needed if number not in self._held]
        for number in missing:
            self.hold(number)
        with self._lock:
            self._release(needed.start)
            blocks = [self._held[number] for number in needed]
        # Row r belongs to frame r - margin; rows outside the mel are zero.
        first = start // self._windows.hop_length - self._windows.model.margin
        rows = np.zeros((self._windows.rows, self._windows.model.columns), np.float32)
        for number, block in zip(needed, blocks, strict=True):
            at = number * BLOCK_FRAMES - first
            begin, end = max(0, at), min(len(rows), at + len(block))
            rows[begin:end] = block[begin - at : end - at]
        return self._windows.lay_out(rows, start, self.steps)

    def _release(self, before: int) -> None:
        self._held = {number: rows for number, rows in self._held.items() if number >= before}

    def _touched(self, start: int) -> range:
        """The numbers of the blocks whose rows the window of the chunk from ``start`` on reads."""
        first = start // self._windows.hop_length - self._windows.model.margin
        stop = min(first + self._windows.rows, self._frames)
        return range(max(0, first) // BLOCK_FRAMES, -(-stop // BLOCK_FRAMES))

    def _exists(self, number: int) -> bool:
        return number * BLOCK_FRAMES < self._frames
