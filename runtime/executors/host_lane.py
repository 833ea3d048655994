"""A lane of an executor that computes a chunk when it is called: state lies in arrays between the calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.executors.protocol import Chunk, State, initial_state


class ChunkDecoder(Protocol):
    """Decodes a chunk from state to state."""

    slots: int | None

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        """T steps: samples [B, T] (int32 labels, or float32 values for mixtures) and the state behind them."""


class HostLane:
    """Keeps each slot's state, and has the decoder compute a chunk's slots, or as many as it has.

    A slot that a chunk leaves out is not computed, and its state stays where it is.
    """

    ahead = 1

    def __init__(self, decoder: ChunkDecoder, model: ModelConfig, streams: int) -> None:
        """Takes a decoder.

        Args:
            decoder: computes.
            model: says what state is.
            streams: slots, where the decoder leaves it open.
        """
        self.slots = decoder.slots or max(1, streams)
        self._decoder = decoder
        self._model = model
        self._states: dict[int, State] = {}
        self._samples: NDArray[Any] | None = None

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        """See `Lane`."""
        for slot in entering:
            self._states[slot] = initial_state(self._model, 1)
        states = [self._states[slot] for slot in slots]
        empty = (self._decoder.slots or len(slots)) - len(slots)
        if empty:  # they compute the first stream again
            rows = [*range(len(slots)), *[0] * empty]
            states = [states[row] for row in rows]
            chunk = Chunk(
                chunk.conditioning[rows], chunk.frame_index[rows], chunk.interpolation[rows], chunk.uniforms[rows]
            )
        samples, state = self._decoder.decode(
            chunk,
            State(
                np.concatenate([one.previous for one in states]), np.concatenate([one.hidden for one in states], axis=1)
            ),
        )
        for row, slot in enumerate(slots):
            self._states[slot] = State(state.previous[row : row + 1], state.hidden[:, row : row + 1])
        self._samples = samples[: len(slots)]

    def collect(self) -> NDArray[Any]:
        """See `Lane`."""
        samples, self._samples = self._samples, None
        if samples is None:
            raise RuntimeError("no chunk was submitted")
        return samples
