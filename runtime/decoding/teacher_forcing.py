"""Teacher forcing: feeds given samples to the decoder and returns its logits; several streams in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, initial_state
from wavernn_trt.runtime.sample_coding import SampleCoding


@dataclass(eq=False)
class ForcedStream:
    """Teacher forcing of one utterance from its first step, and the progress."""

    conditioning: Conditioning
    """Conditioning of the utterance."""
    previous: NDArray[Any]
    """[n], the decoder's input at each step; n is at least 1 and at most the utterance's steps."""
    hidden: FloatArray
    """[L, 1, H], the recurrent state before the next step."""
    next: int = 0
    """The next step."""
    number: int = 0
    """Index in the order of arrival."""


def forced_stream(
    conditioning: Conditioning, samples: ArrayLike, model: ModelConfig, coding: SampleCoding
) -> ForcedStream:
    """Returns a stream whose input at each step is the previous sample; the first input is that of generation.

    Args:
        conditioning: complete conditioning of the utterance.
        samples: [n], labels or values for mixtures.
        model: sets the first input.
        coding: checks and converts the samples.

    Raises:
        VocoderError: no samples, more than the utterance's steps, or samples that this model cannot emit.
    """
    checked = coding.check(samples)
    steps = conditioning.steps
    assert steps is not None
    if not len(checked):
        raise VocoderError("samples: found none, expected at least one")
    if len(checked) > steps:
        raise VocoderError(f"samples: found {len(checked)}, expected at most the mel's {steps}")
    fed = coding.feedback(checked)
    first = np.array([model.first_previous], fed.dtype)
    return ForcedStream(conditioning, np.concatenate([first, fed[:-1]]), initial_state(model, 1).hidden)


@dataclass(frozen=True)
class ForcedPiece:
    """Logits of one stream from one chunk."""

    stream: int
    """The stream's index in the order of arrival."""
    start: int
    """Step of the first row of logits."""
    logits: FloatArray
    """[up to T, outputs]."""
    last: bool
    """Whether the stream ends with this piece."""


def force_streams(
    executor: Executor, windows: ConditioningWindows, streams: Iterable[ForcedStream], batch: int
) -> Iterator[ForcedPiece]:
    """Runs teacher forcing with continuous batching, as `decode_streams` does for free-running decoding.

    Args:
        executor: the executor.
        windows: cuts conditioning into chunks, and sets their number of steps.
        streams: an iterator advances only when a slot is free.
        batch: concurrent streams; ignored by an executor with a fixed number of slots.

    Yields:
        Pieces, in order for each stream, interleaved between streams.
    """
    waiting = enumerate(streams)
    slots = executor.slots or max(1, batch)
    active: list[ForcedStream] = []
    while True:
        while len(active) < slots and (entering := next(waiting, None)) is not None:
            number, stream = entering
            stream.number = number
            active.append(stream)
        if not active:
            return
        # An executor with fixed slots computes the first stream again in its empty slots.
        rows = [*range(len(active)), *[0] * ((executor.slots or len(active)) - len(active))]
        cuts = [stream.conditioning.window(stream.next) for stream in active]
        fed = [stream.previous[stream.next : stream.next + windows.steps] for stream in active]
        # Steps after the end are dropped; they need any valid input.
        padded = [np.pad(values, (0, windows.steps - len(values)), mode="edge") for values in fed]
        chunk = Chunk(
            np.stack([cuts[row].rows for row in rows]),
            np.stack([cuts[row].frame_index for row in rows]),
            np.stack([cuts[row].interpolation for row in rows]),
            np.zeros((len(rows), windows.steps, 0), np.float32),
        )
        logits, hidden = executor.teacher_forced(
            chunk,
            np.stack([padded[row] for row in rows]),
            np.concatenate([active[row].hidden for row in rows], axis=1),
        )
        staying = []
        for row, stream in enumerate(active):
            start, stream.next = stream.next, stream.next + len(fed[row])
            stream.hidden = hidden[:, row : row + 1]
            last = stream.next == len(stream.previous)
            if not last:
                staying.append(stream)
            yield ForcedPiece(stream.number, start, logits[row, : len(fed[row])], last)
        active = staying
