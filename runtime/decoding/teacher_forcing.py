"""Teacher forcing: given samples are fed to the decoder, and its logits come out; several streams at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows
from wavernn_trt.runtime.decoding.sample_coding import SampleCoding
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, initial_state


@dataclass(eq=False)
class ForcedStream:
    """Teacher forcing of one utterance, from its first step on, and how far it is."""

    conditioning: Conditioning
    """The utterance's."""
    previous: NDArray[Any]
    """[n], what each step is fed with; n is at least 1 and at most the utterance's steps."""
    hidden: FloatArray
    """[L, 1, H], the recurrent state before the next step."""
    next: int = 0
    """The next step."""
    number: int = 0
    """Its place in the order of arrival."""


def forced_stream(
    conditioning: Conditioning, samples: ArrayLike, model: ModelConfig, coding: SampleCoding
) -> ForcedStream:
    """A stream that is fed with the sample before each step, and first with what generation begins with.

    Args:
        conditioning: the utterance's, all of whose mel is there.
        samples: [n], labels or values for mixtures.
        model: says what the first step is fed with.
        coding: knows what samples the model can emit.

    Raises:
        VocoderError: none, more than the utterance's steps, or samples that this model cannot have emitted.
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
    """What a chunk yielded for one forced stream."""

    stream: int
    """The stream's place in the order of arrival."""
    start: int
    """The step that the first row of logits belongs to."""
    logits: FloatArray
    """[up to T, outputs]."""
    last: bool
    """Whether the stream ends with this piece."""


def force_streams(
    executor: Executor, windows: ConditioningWindows, streams: Iterable[ForcedStream], batch: int
) -> Iterator[ForcedPiece]:
    """Teacher forcing, several streams at a time; at a chunk boundary the finished leave and the waiting enter.

    Args:
        executor: runs the steps.
        windows: cuts conditioning into chunks; its number of steps is the chunk's.
        streams: what to run; may be a generator.
        batch: streams at a time; an executor with fixed slots takes as many as it has.

    Yields:
        Pieces, each stream's in order, those of different streams interleaved.
    """
    waiting = enumerate(streams)
    room = executor.slots or max(1, batch)
    active: list[ForcedStream] = []
    while True:
        while len(active) < room and (entering := next(waiting, None)) is not None:
            number, stream = entering
            stream.number = number
            active.append(stream)
        if not active:
            return
        slots = _slots(executor, len(active))
        cuts = [one.conditioning.window(one.next) for one in active]
        fed = [one.previous[one.next : one.next + windows.steps] for one in active]
        # Steps behind the end are thrown away; they need any valid input.
        padded = [np.pad(values, (0, windows.steps - len(values)), mode="edge") for values in fed]
        chunk = Chunk(
            np.stack([cuts[slot].rows for slot in slots]),
            np.stack([cuts[slot].frame_index for slot in slots]),
            np.stack([cuts[slot].interpolation for slot in slots]),
            np.zeros((len(slots), windows.steps, 0), np.float32),
        )
        logits, hidden = executor.teacher_forced(
            chunk,
            np.stack([padded[slot] for slot in slots]),
            np.concatenate([active[slot].hidden for slot in slots], axis=1),
        )
        staying = []
        for slot, one in enumerate(active):
            start, one.next = one.next, one.next + len(fed[slot])
            one.hidden = hidden[:, slot : slot + 1]
            last = one.next == len(one.previous)
            if not last:
                staying.append(one)
            yield ForcedPiece(one.number, start, logits[slot, : len(fed[slot])], last)
        active = staying


def _slots(executor: Executor, streams: int) -> list[int]:
    """Which stream each slot computes: an executor with fixed slots computes the first again in the empty ones."""
    return [*range(streams), *[0] * ((executor.slots or streams) - streams)]
