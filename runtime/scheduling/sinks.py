"""Where an utterance's waveform goes while it is decoded."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from wavernn_trt.runtime.conditioning.windows import FloatArray


class Sink(Protocol):
    """Takes a waveform in order. Calls come one at a time, from the scheduler's threads, and must not block."""

    def room(self) -> int | None:
        """Samples that can be taken now; ``None`` if there is no bound.

        An utterance is decoded by whole chunks: while there is less room than a chunk's samples, it is paused, and its
        neighbours go on without it.
        """

    def urgent(self) -> bool:
        """Whether a listener will soon run out of samples; asked of interactive utterances only."""

    def write(self, samples: FloatArray) -> None:
        """The next samples, float32 [n], n at most what `room` returned last; the array is the sink's own."""

    def finish(self, error: BaseException | None) -> None:
        """No more will come: the waveform is complete, or ``error`` (also of a cancellation) says why it is not."""


class Collected:
    """Keeps the waveform until it is complete."""

    def __init__(self) -> None:
        """Starts empty."""
        self._pieces: list[FloatArray] = []

    def room(self) -> None:
        """See `Sink`."""

    def urgent(self) -> bool:
        return True  # the caller waits for the whole, and so for every part

    def write(self, samples: FloatArray) -> None:
        self._pieces.append(samples)

    def finish(self, error: BaseException | None) -> None:
        """See `Sink`."""

    def waveform(self) -> FloatArray:
        """All samples so far, float32 [n] (or labels, of an utterance whose sink takes those); they are let go."""
        pieces, self._pieces = self._pieces, []
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
