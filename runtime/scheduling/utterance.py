"""What is to be spoken, and how a waveform is put together of what its streams yield."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import Conditioning, FloatArray, Want
from wavernn_trt.runtime.decoding.chunk_loop import Stream
from wavernn_trt.runtime.decoding.folding import Fold, join_folds
from wavernn_trt.runtime.decoding.sample_coding import SampleCoding
from wavernn_trt.runtime.decoding.uniforms import UniformSource
from wavernn_trt.runtime.health.output_guard import OutputGuard


@dataclass(frozen=True)
class Utterance:
    """A request that was checked; it can be begun more than once, with the same result."""

    condition: Callable[[], Conditioning]
    """Runs the conditioner, or the part of it that can be run yet."""
    frames: int
    """Of the mel that one run of the conditioner takes."""
    steps: int | None
    """To be decoded; ``None`` is all, however many frames may come."""
    conditioning_bytes: int
    """That its conditioning takes at most, at a time."""
    folds: Sequence[Fold]
    """How it is cut; empty where it is not."""
    uniforms: Callable[[int], UniformSource]
    """A fold's number to its random numbers, from the first."""
    guard: Callable[[], OutputGuard]
    """A watch over what is decoded."""

    def streams(self, conditioning: Conditioning, want: Want | None = None) -> list[Stream]:
        """A stream for each fold; for ``want`` see `Conditioning.for_stream`."""
        if not self.folds:
            return [Stream(conditioning.for_stream(want), self.uniforms(0), 0, self.steps)]
        return [
            Stream(conditioning.for_stream(want), self.uniforms(i), fold.first, fold.stop)
            for i, fold in enumerate(self.folds)
        ]


class Assembly:
    """One utterance's waveform, from the samples of its streams."""

    def __init__(self, utterance: Utterance, coding: SampleCoding) -> None:
        """Begins with nothing."""
        self._folds = utterance.folds
        self._coding = coding
        self._de_emphasis = coding.de_emphasis()
        self._parts: list[list[NDArray[np.float64]]] = [[] for _ in self._folds]
        self._left = max(1, len(self._folds))

    @property
    def complete(self) -> bool:
        """Whether every stream has ended."""
        return not self._left

    def add(self, fold: int, samples: NDArray[Any], *, last: bool) -> FloatArray:
        """Takes what a chunk yielded for a stream.

        Args:
            fold: the stream's number.
            samples: labels, or values for mixtures; may be empty.
            last: whether the stream ends with them.

        Returns:
            The waveform's next samples, float32 [n]. Those of a folded utterance all come with the last of its streams.
        """
        self._left -= last
        amplitudes = self._coding.amplitudes(samples)
        if self._folds:
            self._parts[fold].append(amplitudes)
            if self._left:
                return np.zeros(0, np.float32)
            amplitudes = join_folds(self._folds, [np.concatenate(part) for part in self._parts])
            self._parts.clear()
        return self._de_emphasis(amplitudes).astype(np.float32)
