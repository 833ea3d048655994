"""Chunk loop: continuous batching of streams in the slots of a lane.

All slots are decoded together, a chunk of steps at a time. At chunk boundaries finished streams leave and waiting
streams enter. Every free-running decode uses this loop: single utterances, batches and streamed output.
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
    """Steps to decode from the initial state (an utterance, or a fold of one), and the progress."""

    conditioning: Conditioning
    """Conditioning of the whole utterance."""
    uniforms: UniformSource
    """Random numbers of the steps from ``start`` on."""
    start: int = 0
    """First step."""
    stop: int | None = None
    """Step after the last one; ``None``: the utterance's end, which may not be known yet."""
    number: int = 0
    """Index among the streams of an utterance, or of a call of `decode_streams`."""
    slot: int = field(default=-1, init=False)
    """Slot of the lane; -1 before the stream enters, and after its last chunk is submitted."""
    next: int = field(init=False)
    """First step that is not submitted yet."""
    in_flight: int = field(default=0, init=False)
    """Chunks of the stream that are submitted and not collected."""

    def __post_init__(self) -> None:
        self.next = self.start

    @property
    def end(self) -> int | None:
        """Step after the last one; ``None`` while it is not known."""
        return self.conditioning.steps if self.stop is None else self.stop

    @property
    def ended(self) -> bool:
        """Whether no step is left to submit or to collect."""
        return not self.in_flight and self.next == self.end

    def ready(self) -> bool:
        """Whether the conditioning of the next chunk is available."""
        return self.next != self.end and self.conditioning.ready(self.next)


S = TypeVar("S", bound=Stream)


@dataclass(eq=False)
class Piece(Generic[S]):
    """Part of a chunk that belongs to one stream."""

    stream: S
    start: int
    """Step of the first sample in the utterance."""
    count: int
    """Number of samples."""
    last: bool
    """Whether the stream ends with this piece."""
    samples: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 labels, or float32 values for mixtures; empty before the chunk is collected."""


class LaneLoop(Generic[S]):
    """Slot table of a lane, and its chunks in flight; for use by one thread.

    Every chunk has the same number of steps (that of the windows), even if a stream has fewer left: matrix products of
    another shape may round differently, and an utterance's bits must not depend on the chunking.

    Only `enter` and `leave` change `table`: a thread that shares it with readers calls these two under a lock.
    """

    def __init__(self, lane: Lane, windows: ConditioningWindows) -> None:
        self.table: dict[S, None] = {}
        """Streams in the order of arrival, including those without a slot whose last chunk is in flight."""
        self._lane = lane
        self._windows = windows
        self._free = deque(range(lane.slots))
        self._in_flight: deque[list[Piece[S]]] = deque()

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def streams(self) -> list[S]:
        """Streams with a slot, in the order of arrival."""
        return [stream for stream in self.table if stream.slot >= 0]

    @property
    def in_flight(self) -> int:
        """Number of chunks that are submitted and not collected."""
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether a chunk must be collected before the next is submitted."""
        return len(self._in_flight) >= self._lane.ahead

    def enter(self, stream: S) -> None:
        """Assigns a free slot to a new stream, which has at least one step or an end that is not known yet."""
        stream.slot = self._free.popleft()
        self.table[stream] = None

    def leave(self, stream: S) -> None:
        """Removes a stream from the table, after its last piece or earlier; later pieces are then ignored."""
        del self.table[stream]
        self._vacate(stream)

    def submit(self, streams: Sequence[S]) -> None:
        """Submits a chunk of the given streams, at least one, each ready; other streams are paused."""
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
        """Waits for the oldest chunk in flight; streams whose last piece is in it may leave now."""
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
    """Decodes streams with complete conditioning in the calling thread.

    Args:
        executor: the executor.
        windows: cuts conditioning into chunks, and sets their number of steps.
        streams: an iterator advances only when a slot is free. Streams are numbered in order.
        batch: concurrent streams; ignored by an executor with a fixed number of slots.

    Yields:
        Pieces, in order for each stream, interleaved between streams.
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
