"""What an executor does: condition a mel, decode streams in chunks, and run given samples teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray as FloatArray
from wavernn_trt.export.config import ModelConfig


@dataclass(frozen=True)
class Chunk:
    """What T steps of B streams read."""

    conditioning: FloatArray
    """[B, W, columns]: the rows of conditioning that the steps touch."""
    frame_index: NDArray[np.int32]
    """[B, T]: which row of the window a step reads, for groups that are ``held``."""
    interpolation: FloatArray
    """[B, G, T, W]: the weights of the window's rows, for each of the G groups that are not ``held``."""
    uniforms: FloatArray
    """[B, T, U]: a uniform random number that chooses a class or component, and for mixtures a standard deviate
    (logistic or normal); empty (U = 0) for teacher forcing."""


@dataclass(frozen=True)
class State:
    """What a stream carries from chunk to chunk."""

    previous: NDArray[Any]
    """[B]: the sample before the chunk, int32 labels (univoc) or float32 values in [-1, 1]."""
    hidden: FloatArray
    """[L, B, H]: recurrent state."""


def initial_state(model: ModelConfig, batch: int) -> State:
    """The state before the first sample: silence, and a recurrent state of zeros."""
    dtype = np.int32 if model.label_feedback else np.float32
    return State(
        np.full(batch, model.first_previous, dtype), np.zeros((model.layers, batch, model.hidden_size), np.float32)
    )


class Lane(Protocol):
    """Slots that streams are decoded in, chunk after chunk; their state stays with the lane.

    Chunks are submitted and collected in one order. What a chunk reads does not depend on the samples before it, so
    that a lane which computes elsewhere can be given the next chunk while it is busy with one.

    A chunk may leave occupied slots out: their streams are paused, because their samples are not taken yet or their mel
    has not arrived. They keep their state exactly, as if the chunk had not happened, for any number of chunks, and go
    on with the next chunk that has them. A lane does not learn when a stream ends: the state in its slot is unused
    until another stream enters there.

    One thread at a time calls a lane, and whichever thread may be the next.
    """

    @property
    def slots(self) -> int:
        """Streams at a time, at most."""

    @property
    def ahead(self) -> int:
        """Chunks that may be submitted and not collected yet: 1 where submitting a chunk is computing it."""

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        """Begins a chunk.

        Args:
            chunk: a row for each of ``slots``; its arrays may be changed once this returns.
            slots: which slot each row's stream is in, each once and at least one, in any order.
            entering: those of ``slots`` that start from the initial state; the others' streams go on from where they
                were when a chunk last had them.
        """

    def collect(self) -> NDArray[Any]:
        """Waits for the chunk that was submitted first: samples [B, T], a row for each of its slots.

        They are int32 labels, or float32 values for mixtures, and the caller's own.
        """


class Executor(Protocol):
    """Runs one model.

    `condition`, `teacher_forced`, `lane` and the contexts that it gives may be used by several threads at the same
    time, a thread for each lane among them; where the work cannot overlap, they wait for each other. A lane's
    context may be left by another thread than the one that entered it.
    """

    @property
    def name(self) -> str:
        """As ``--backend`` calls it."""

    @property
    def slots(self) -> int | None:
        """The number of streams that every chunk computes; ``None`` where any number gives each stream equal bits."""

    @property
    def steps(self) -> int | None:
        """The number of steps that every chunk must have; ``None`` where any will do."""

    @property
    def lanes(self) -> int:
        """Lanes to open by default, at least 1: more would only take turns at the same cores or device."""

    def condition(self, mel: FloatArray) -> FloatArray:
        """Mel [n_mels, N] -> conditioning [N + 2 * margin, columns]."""

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        """A lane, for as long as the context lasts; several at a time are independent of each other.

        Args:
            streams: how many at a time, at most; where the number of slots is fixed, the lane has those.
        """

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """T steps, each fed with ``previous`` [B, T]: logits [B, T, outputs], and the recurrent state behind them."""
