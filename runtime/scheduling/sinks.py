"""Receivers of an utterance's waveform while it is decoded."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from wavernn_trt.runtime.conditioning.windows import FloatArray


class Sink(Protocol):
    """Receives a waveform in order. Calls come one at a time, from the scheduler's threads, and must not block."""

    def room(self) -> int | None:
        """Returns the number of samples that can be written now; ``None`` if there is no bound.

        Utterances are decoded in whole chunks: one whose sink has less room than a chunk is paused, and the others
        continue.
        """

    def urgent(self) -> bool:
        """Returns whether the listener will soon run out of samples; called for interactive utterances only."""

    def write(self, samples: FloatArray) -> None:
        """Receives the next samples, float32 [n], n at most the last result of `room`; the sink owns the array."""

    def finish(self, error: BaseException | None) -> None:
        """Ends the waveform: complete if ``error`` is ``None``, else cut short by that error or cancellation."""


class Collected:
    """Keeps the waveform until it is complete."""

    def __init__(self) -> None:
        """Starts empty."""
        self._pieces: list[FloatArray] = []

    def room(self) -> None:
        """See `Sink`."""

    def urgent(self) -> bool:
        return True  # the caller waits for the complete waveform

    def write(self, samples: FloatArray) -> None:
        self._pieces.append(samples)

    def finish(self, error: BaseException | None) -> None:
        """See `Sink`."""

    def waveform(self) -> FloatArray:
        """Returns and releases all samples so far, float32 [n], or labels for raw samples."""
        pieces, self._pieces = self._pieces, []
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
