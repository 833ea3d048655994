"""The chunk loop: the one way in which samples come out of an executor.

Continuous batching: a lane's slots are decoded together, a chunk of steps at a time; at every chunk boundary the
finished leave and the waiting enter. Vocoding alone, in a batch and as a stream of chunks are all this loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows
from wavernn_trt.runtime.decoding.uniforms import UniformSource, sampling_inputs
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, Lane


@dataclass(eq=False)
class Stream:
    """A run of steps to decode from the initial state (an utterance, or a fold of one), and how far it is."""

    conditioning: Conditioning
    """The whole utterance's."""
    uniforms: UniformSource
    """The random numbers of the steps from ``start`` on."""
    start: int = 0
    """First step."""
    stop: int | None = None
    """One behind the last step; ``None`` where that is the utterance's end, which may not be known yet."""
    number: int = 0
    """Identifies it among the streams of an utterance, or of a call of `decode_streams`."""
    slot: int = field(default=-1, init=False)
    """The lane's slot that it has; -1 before it enters, and once its last chunk is submitted."""
    next: int = field(init=False)
    """The first step that is not submitted yet."""
    in_flight: int = field(default=0, init=False)
    """Chunks with a part of it that are submitted and not collected."""

    def __post_init__(self) -> None:
        """Begins at the first step."""
        self.next = self.start

    @property
    def end(self) -> int | None:
        """One behind the last step; ``None`` while that is not known."""
        return self.conditioning.steps if self.stop is None else self.stop

    @property
    def ended(self) -> bool:
        """Whether no step is left to submit or to collect."""
        return not self.in_flight and self.next == self.end

    def ready(self) -> bool:
        """Whether the conditioning of the next chunk is there."""
        return self.next != self.end and self.conditioning.ready(self.next)


S = TypeVar("S", bound=Stream)


@dataclass(eq=False)
class Piece(Generic[S]):
    """The part of a chunk that belongs to one stream."""

    stream: S
    start: int
    """The step of the utterance that the first sample belongs to."""
    count: int
    """Samples."""
    last: bool
    """Whether the stream ends with this piece."""
    samples: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 labels, or float32 values for mixtures; empty before the chunk is collected."""


class LaneLoop(Generic[S]):
    """The table of a lane's slots, and the chunks in flight; one thread at a time.

    Every chunk has the windows' number of steps, whatever is left of the streams: matrix products of another shape may
    round otherwise, and an utterance's bits must not depend on how it is cut.

    Only `enter` and `leave` change `table`: a thread that lets others read it calls these two under a lock.
    """

    def __init__(self, lane: Lane, windows: ConditioningWindows) -> None:
        """Begins with every slot free.

        Args:
            lane: computes.
            windows: its number of steps is the chunk's.
        """
        self.table: dict[S, None] = {}
        """Streams in the order of arrival; also those that gave their slot back and whose last chunk is in flight."""
        self._lane = lane
        self._windows = windows
        self._free = deque(range(lane.slots))
        self._in_flight: deque[list[Piece[S]]] = deque()

    @property
    def free(self) -> int:
        """Slots that no stream is in."""
        return len(self._free)

    @property
    def streams(self) -> list[S]:
        """The streams that have a slot, in the order of arrival."""
        return [stream for stream in self.table if stream.slot >= 0]

    @property
    def in_flight(self) -> int:
        """Chunks that are submitted and not collected."""
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether a chunk must be collected before another is submitted."""
        return len(self._in_flight) >= self._lane.ahead

    def enter(self, stream: S) -> None:
        """Puts a new stream, with at least one step or an end that is not known yet, into a free slot."""
        stream.slot = self._free.popleft()
        self.table[stream] = None

    def leave(self, stream: S) -> None:
        """Takes a stream out of the table: behind its last piece, or before its end, to ignore what is in flight."""
        del self.table[stream]
        self._vacate(stream)

    def submit(self, streams: Sequence[S]) -> None:
        """Begins a chunk of some of the streams, at least one, each ready; the others stay as they are."""
        entering = [stream.slot for stream in streams if stream.next == stream.start]
        self._lane.submit(self._chunk(streams), [stream.slot for stream in streams], entering)
        pieces = []
        for stream in streams:
            start, end = stream.next, stream.end
            stream.next = start + self._windows.steps if end is None else min(start + self._windows.steps, end)
            stream.in_flight += 1
            pieces.append(Piece(stream, start, stream.next - start, stream.next == end))
            if stream.next == end:
                self._vacate(stream)
        self._in_flight.append(pieces)

    def collect(self) -> list[Piece[S]]:
        """Waits for the chunk that was submitted first; streams whose last piece is among it may leave now."""
        samples = self._lane.collect()
        pieces = self._in_flight.popleft()
        for piece, row in zip(pieces, samples, strict=True):
            piece.stream.in_flight -= 1
            piece.samples = row[: piece.count]
        return pieces

    def _vacate(self, stream: S) -> None:
        if stream.slot >= 0:
            self._free.append(stream.slot)
            stream.slot = -1

    def _chunk(self, streams: Sequence[S]) -> Chunk:
        cuts = [stream.conditioning.window(stream.next) for stream in streams]
        model, steps = self._windows.model, self._windows.steps
        uniforms = [sampling_inputs(model, stream.uniforms.draw(steps)) for stream in streams]
        return Chunk(
            np.stack([cut.rows for cut in cuts]),  # [B, W, columns]
            np.stack([cut.frame_index for cut in cuts]),  # [B, T]
            np.stack([cut.interpolation for cut in cuts]),  # [B, G, T, W]
            np.stack(uniforms),  # [B, T, U]
        )


def decode_streams(
    executor: Executor, windows: ConditioningWindows, streams: Iterable[Stream], batch: int
) -> Iterator[Piece[Stream]]:
    """Decodes streams whose conditioning is all there, in the calling thread, pulling each only when there is room.

    Args:
        executor: decodes.
        windows: cuts conditioning into chunks; its number of steps is the chunk's.
        streams: what to decode; may be a generator. They are numbered as they come.
        batch: streams at a time; an executor with fixed slots takes as many as it has.

    Yields:
        Pieces, each stream's in order, those of different streams interleaved.
    """
    waiting = enumerate(streams)
    with executor.lane(batch) as lane:
        loop: LaneLoop[Stream] = LaneLoop(lane, windows)
        while True:
            while not loop.full:
                while loop.free and (arrived := next(waiting, None)) is not None:
                    number, stream = arrived
                    stream.number = number
                    loop.enter(stream)
                if not (chosen := loop.streams):
                    break
                loop.submit(chosen)
            if not loop.in_flight:
                return
            for piece in loop.collect():
                if piece.last:
                    loop.leave(piece.stream)
                yield piece
