"""Windows of conditioning rows that the chunks of an utterance read.

The conditioner works at the frame rate. Each step reads its frame's row (``held`` groups) or a weighted sum of the rows
around it (``kernel`` and ``linear`` groups). A window has these rows, indices and weights in static shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ColumnGroup, ModelConfig
from wavernn_trt.export.model_directory import window_rows
from wavernn_trt.runtime.errors import VocoderError

FloatArray = NDArray[np.float32]
Want = Callable[[Callable[[], None]], None]
"""Queues work for another thread."""


@dataclass(frozen=True)
class Window:
    """Conditioning of one chunk of one stream."""

    rows: FloatArray
    """[W, columns]: conditioning rows, zero after the last row of the utterance."""
    frame_index: NDArray[np.int32]
    """[T]: the row of the window that a step reads for ``held`` groups."""
    interpolation: FloatArray
    """[G, T, W]: weights of the window's rows for the G groups that are not ``held``."""


class Conditioning(Protocol):
    """Conditioning of one utterance."""

    @property
    def steps(self) -> int | None:
        """Number of steps of the utterance; ``None`` while frames of its mel may still arrive."""

    @property
    def error(self) -> BaseException | None:
        """The error that ended the mel early, if any; raised after the last sample."""

    def ready(self, start: int) -> bool:
        """Returns whether all rows of the window of the chunk at ``start`` are available and final."""

    def window(self, start: int) -> Window:
        """Returns the window of the chunk at ``start``, which is below `steps`."""

    def for_stream(self, want: Want | None) -> Conditioning:
        """Returns the conditioning for one stream, which reads forward from its start.

        Args:
            want: called with the work after which `ready` becomes true; with ``None``, `window` computes missing rows.
        """


class WholeConditioning:
    """`Conditioning` with all rows in one array."""

    error: BaseException | None = None

    def __init__(self, windows: ConditioningWindows, rows: FloatArray) -> None:
        """Uses rows [N + 2 * margin, columns]."""
        self._windows = windows
        self._rows = rows
        self.steps: int | None = windows.total_steps(rows)

    def ready(self, start: int) -> bool:
        return True

    def window(self, start: int) -> Window:
        return self._windows.cut(self._rows, start)

    def for_stream(self, want: Want | None) -> WholeConditioning:
        return self


class ConditioningWindows:
    """Cuts windows for chunks of a fixed number of steps."""

    def __init__(
        self, model: ModelConfig, audio: AudioConfig, steps: int, upsampling: FloatArray | None = None
    ) -> None:
        """Checks the upsampling weights.

        Args:
            model: has the column groups and their margin.
            audio: has the hop length.
            steps: steps of a chunk, T.
            upsampling: for ``kernel`` groups, float32 [hop_length, 2 * margin + 1].

        Raises:
            VocoderError: ``upsampling`` is missing or of the wrong shape, or a ``linear`` group has no margin to read.
        """
        self.model = model
        self.hop_length = audio.hop_length
        self.steps = steps
        self.rows = window_rows(model, audio, steps)
        self._upsampling = upsampling
        self._interpolated = [group for group in model.groups if group.expansion != "held"]
        self._kernels: dict[int, FloatArray] = {}
        taps = (audio.hop_length, 2 * model.margin + 1)
        expansions = {group.expansion for group in self._interpolated}
        if "kernel" in expansions and (upsampling is None or upsampling.shape != taps):
            found = "none" if upsampling is None else str(upsampling.shape)
            raise VocoderError(f"upsampling weights: found {found}, expected {taps}; export the checkpoint again")
        if "linear" in expansions and model.margin < 1:
            raise VocoderError("linear conditioning reads a row on either side: found margin 0, expected at least 1")

    def total_steps(self, rows: FloatArray) -> int:
        """Returns the number of steps of an utterance with ``rows`` [N + 2 * margin, columns]."""
        return (len(rows) - 2 * self.model.margin) * self.hop_length

    def cut(self, rows: FloatArray, start: int) -> Window:
        """Returns the window of steps ``start`` … ``start + T - 1``; steps after the end repeat the last position.

        Args:
            rows: conditioning of the whole utterance, [N + 2 * margin, columns].
            start: the first step, below the utterance's number of steps.
        """
        first = start // self.hop_length
        return self.lay_out(rows[first : first + self.rows], start, self.total_steps(rows))

    def lay_out(self, read: FloatArray, start: int, total: int | None) -> Window:
        """Returns the same window from the rows that it reads only.

        Args:
            read: rows of the utterance from ``start // hop_length`` on, [up to W, columns].
            start: the first step.
            total: steps of the utterance; ``None`` if unknown but at least ``start + T``. ``linear`` groups require it.
        """
        hop, margin = self.hop_length, self.model.margin
        first, phase = divmod(start, hop)
        valid = self.steps if total is None else min(self.steps, total - start)
        inside = np.minimum(np.arange(self.steps), valid - 1) + phase  # [T], positions from the window's first frame
        frames = inside // hop
        window = np.zeros((self.rows, read.shape[1]), np.float32)
        window[: len(read)] = read
        weights = np.zeros((len(self._interpolated), self.steps, self.rows), np.float32)
        for group, table in zip(self._interpolated, weights, strict=True):
            if group.expansion == "linear":
                assert total is not None
                self._linear(group, table, inside + first * hop, first, total // hop + 2 * margin)
            elif valid == self.steps:
                # The weights of a window inside the utterance depend on its phase only: cached by phase.
                if phase not in self._kernels:
                    self._kernel(table, inside, frames)
                    self._kernels[phase] = table.copy()
                else:
                    table[:] = self._kernels[phase]
            else:
                self._kernel(table, inside, frames)
        return Window(window, (frames + margin).astype(np.int32), weights)

    def _kernel(self, table: FloatArray, inside: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        assert self._upsampling is not None
        taps = np.arange(self._upsampling.shape[1])
        # Row f of the window is frame f - margin, so the kernel's first tap falls on row f.
        table[np.arange(self.steps)[:, None], frames[:, None] + taps] = self._upsampling[inside % self.hop_length]

    def _linear(
        self, group: ColumnGroup, table: FloatArray, positions: NDArray[np.int64], first: int, rows: int
    ) -> None:
        margin, hop = self.model.margin, self.hop_length
        # The mel is interpolated together with its margin, which is then cut off; other groups have no margin.
        count, offset, base = (rows, margin * hop, 0) if group.name == "mel" else (rows - 2 * margin, 0, margin)
        where = (positions + offset) * ((count - 1) / max(count * hop - 1, 1))
        lower = np.minimum(where.astype(np.int64), count - 1)
        upper = np.minimum(lower + 1, count - 1)
        share = where - lower
        steps = np.arange(self.steps)
        table[steps, base + lower - first] += 1.0 - share
        table[steps, base + upper - first] += share
