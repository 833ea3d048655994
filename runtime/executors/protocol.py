"""Protocol of executors: conditioning of mels, decoding of streams in chunks, and teacher forcing."""

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
    """Inputs of T steps of B streams."""

    conditioning: FloatArray
    """[B, W, columns]: the window of conditioning that the steps read."""
    frame_index: NDArray[np.int32]
    """[B, T]: row of the window that a step reads, for groups that are ``held``."""
    interpolation: FloatArray
    """[B, G, T, W]: weights of the window's rows, for each of the G groups that are not ``held``."""
    uniforms: FloatArray
    """[B, T, U]: a uniform random number that selects a class or component, and for mixtures a standard deviate
    (logistic or normal); empty (U = 0) for teacher forcing."""


@dataclass(frozen=True)
class State:
    """State of B streams between chunks."""

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
    """Slots in which streams are decoded chunk by chunk. The lane keeps their state.

    Chunks are collected in the order of submission. The inputs of a chunk do not depend on the samples before it, so a
    lane on a device accepts the next chunk while it computes one.

    A chunk may leave out slots in use. Their streams are paused: they keep their exact state for any number of chunks,
    and continue with the next chunk that contains them. A lane is not notified when a stream ends: the state of its
    slot is unused until another stream enters.

    A lane is used by one thread at a time, which may change between calls.
    """

    @property
    def slots(self) -> int:
        """Maximum number of streams."""

    @property
    def ahead(self) -> int:
        """Maximum number of submitted, uncollected chunks; 1 if `submit` computes the chunk."""

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        """Starts a chunk.

        Args:
            chunk: one row for each of ``slots``; the caller may change its arrays after the call.
            slots: the slot of each row's stream; at least one, no duplicates, in any order.
            entering: those of ``slots`` whose streams start from the initial state; the others continue.
        """

    def collect(self) -> NDArray[Any]:
        """Waits for the oldest chunk; returns its samples [B, T], one row for each of its slots.

        Samples are int32 labels, or float32 values for mixtures, in an array of the caller's.
        """


class Executor(Protocol):
    """Runs one model.

    `condition`, `teacher_forced` and `lane` may be called by several threads at the same time, and each lane may be
    used by another thread; work that cannot overlap is serialised. A lane's context may be exited by another thread
    than it was entered by.
    """

    @property
    def name(self) -> str:
        """Name of the backend, as in ``--backend``."""

    @property
    def slots(self) -> int | None:
        """Number of streams of every chunk; ``None`` if any number gives each stream the same bits."""

    @property
    def steps(self) -> int | None:
        """Number of steps of every chunk; ``None`` if any number is accepted."""

    @property
    def lanes(self) -> int:
        """Default number of lanes, at least 1; more lanes would only compete for the same cores or device."""

    @property
    def conditioners(self) -> int:
        """Calls of `condition` that compute at the same time beside one lane, at least 1."""

    def condition(self, mel: FloatArray) -> FloatArray:
        """Mel [n_mels, N] -> conditioning [N + 2 * margin, columns]."""

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        """A new lane, open inside the context; lanes are independent of each other.

        Args:
            streams: maximum number of streams; ignored if the number of slots is fixed.
        """

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """T steps with the inputs ``previous`` [B, T]: logits [B, T, outputs], and the recurrent state after them."""
