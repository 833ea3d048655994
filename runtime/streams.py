"""The chunk loop: the one way in which samples come out of an executor.

Continuous batching: up to ``batch`` streams are decoded together, a chunk of steps at a time; at every chunk boundary
the finished leave and the waiting enter. Vocoding alone, in a batch and as a stream of chunks are all this loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning import ConditioningWindows, FloatArray
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, initial_state
from wavernn_trt.runtime.uniforms import UniformSource, sampling_inputs


@dataclass(frozen=True)
class Stream:
    """A run of steps to decode from the initial state: an utterance, or a fold of one."""

    rows: FloatArray
    """The whole utterance's conditioning, [N + 2 * margin, columns]."""
    uniforms: UniformSource
    """The random numbers of the steps from ``start`` on."""
    start: int
    """First step."""
    stop: int
    """One behind the last step."""


@dataclass(frozen=True)
class Piece:
    """What a chunk yielded for one stream."""

    stream: int
    """The stream's place in the order of arrival."""
    start: int
    """The step of the utterance that the first sample belongs to."""
    samples: NDArray[Any]
    """int32 labels, or float32 values for mixtures."""
    last: bool
    """Whether the stream ends with this piece."""


@dataclass(frozen=True)
class _Part:
    """What a submitted chunk will yield for one stream."""

    stream: int
    start: int
    count: int
    last: bool


@dataclass
class _Active:
    index: int
    stream: Stream
    slot: int
    next: int

    def advance(self, steps: int) -> _Part:
        """Goes one chunk on."""
        start, self.next = self.next, min(self.next + steps, self.stream.stop)
        return _Part(self.index, start, self.next - start, self.next == self.stream.stop)


def decode_streams(
    executor: Executor, windows: ConditioningWindows, streams: Iterable[Stream], batch: int
) -> Iterator[Piece]:
    """Decodes streams, pulling each only when there is room for it.

    Every chunk has the windows' number of steps, whatever is left of the streams: matrix products of another shape may
    round otherwise, and an utterance's bits must not depend on how it is cut.

    Args:
        executor: decodes.
        windows: cuts conditioning into chunks; its number of steps is the chunk's.
        streams: what to decode; may be a generator.
        batch: streams at a time; an executor with fixed slots takes as many as it has.

    Yields:
        Pieces, each stream's in order, those of different streams interleaved.
    """
    waiting = enumerate(streams)
    active: list[_Active] = []  # in the order of arrival
    submitted: deque[list[_Part]] = deque()
    with executor.lane(batch) as lane:
        free = list(range(lane.slots))
        while True:
            while len(submitted) < lane.ahead:
                entering = []
                while free and (arrived := next(waiting, None)) is not None:
                    entering.append(free.pop(0))
                    active.append(_Active(*arrived, entering[-1], arrived[1].start))
                if not active:
                    break
                lane.submit(_chunk(windows, active), [one.slot for one in active], entering)
                parts = [one.advance(windows.steps) for one in active]
                submitted.append(parts)
                free += [one.slot for one, part in zip(active, parts, strict=True) if part.last]
                active = [one for one, part in zip(active, parts, strict=True) if not part.last]
            if not submitted:
                return
            for part, samples in zip(submitted.popleft(), lane.collect(), strict=True):
                yield Piece(part.stream, part.start, samples[: part.count], part.last)


@dataclass(frozen=True)
class ForcedStream:
    """Teacher forcing of one utterance, from its first step on."""

    rows: FloatArray
    """The utterance's conditioning, [N + 2 * margin, columns]."""
    previous: NDArray[Any]
    """[n], what each step is fed with; n is at least 1 and at most the utterance's steps."""


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


@dataclass
class _Forced:
    index: int
    stream: ForcedStream
    hidden: FloatArray  # [L, 1, H]
    next: int = 0


def force_streams(
    executor: Executor, windows: ConditioningWindows, streams: Iterable[ForcedStream], batch: int
) -> Iterator[ForcedPiece]:
    """Teacher forcing, several streams at a time; they enter and leave as in `decode_streams`.

    Args:
        executor: runs the steps.
        windows: as for `decode_streams`.
        streams: what to run; may be a generator.
        batch: streams at a time; an executor with fixed slots takes as many as it has.

    Yields:
        Pieces, each stream's in order, those of different streams interleaved.
    """
    waiting = enumerate(streams)
    room = executor.slots or max(1, batch)
    active: list[_Forced] = []
    while True:
        while len(active) < room and (entering := next(waiting, None)) is not None:
            active.append(_Forced(*entering, initial_state(windows.model, 1).hidden))
        if not active:
            return
        slots = _slots(executor, len(active))
        cuts = [windows.cut(one.stream.rows, one.next) for one in active]
        fed = [one.stream.previous[one.next : one.next + windows.steps] for one in active]
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
            last = one.next == len(one.stream.previous)
            if not last:
                staying.append(one)
            yield ForcedPiece(one.index, start, logits[slot, : len(fed[slot])], last)
        active = staying


def _slots(executor: Executor, streams: int) -> list[int]:
    """Which stream each slot computes: an executor with fixed slots computes the first again in the empty ones."""
    return [*range(streams), *[0] * ((executor.slots or streams) - streams)]


def _chunk(windows: ConditioningWindows, active: list[_Active]) -> Chunk:
    cuts = [windows.cut(one.stream.rows, one.next) for one in active]
    uniforms = [sampling_inputs(windows.model, one.stream.uniforms.draw(windows.steps)) for one in active]
    return Chunk(
        np.stack([cut.rows for cut in cuts]),  # [B, W, columns]
        np.stack([cut.frame_index for cut in cuts]),  # [B, T]
        np.stack([cut.interpolation for cut in cuts]),  # [B, G, T, W]
        np.stack(uniforms),  # [B, T, U]
    )
