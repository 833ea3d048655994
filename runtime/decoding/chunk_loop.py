"""The chunk loop: the one way in which samples come out of an executor.

Continuous batching: a lane's slots are decoded together, a chunk of steps at a time; at every chunk boundary the
finished leave and the waiting enter. Vocoding alone, in a batch and as a stream of chunks are all this loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows
from wavernn_trt.runtime.decoding.uniforms import UniformSource, sampling_inputs
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, Lane


@dataclass(frozen=True)
class Stream:
    """A run of steps to decode from the initial state: an utterance, or a fold of one."""

    conditioning: Conditioning
    """The whole utterance's."""
    uniforms: UniformSource
    """The random numbers of the steps from ``start`` on."""
    start: int = 0
    """First step."""
    stop: int | None = None
    """One behind the last step; ``None`` where that is the utterance's end, which may not be known yet."""


@dataclass(frozen=True)
class Piece:
    """What a chunk yielded for one stream."""

    stream: int
    """The number under which the stream entered."""
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
    stream: Stream
    slot: int
    next: int
    in_flight: int = 0

    def stop(self) -> int | None:
        return self.stream.conditioning.steps if self.stream.stop is None else self.stream.stop


class LaneLoop:
    """The streams in one lane's slots; one thread at a time.

    Every chunk has the windows' number of steps, whatever is left of the streams: matrix products of another shape may
    round otherwise, and an utterance's bits must not depend on how it is cut.
    """

    def __init__(self, lane: Lane, windows: ConditioningWindows) -> None:
        """Begins with every slot free.

        Args:
            lane: computes.
            windows: its number of steps is the chunk's.
        """
        self._lane = lane
        self._windows = windows
        self._free = deque(range(lane.slots))
        self._active: dict[int, _Active] = {}  # in the order of arrival
        self._entering: set[int] = set()
        self._in_flight: deque[list[_Part]] = deque()

    @property
    def free(self) -> int:
        """Slots that no stream is in."""
        return len(self._free)

    @property
    def slots(self) -> int:
        """All slots."""
        return self._lane.slots

    @property
    def streams(self) -> Collection[int]:
        """The numbers of the streams that have steps left, in the order of arrival."""
        return self._active.keys()

    @property
    def in_flight(self) -> int:
        """Chunks that are submitted and not collected."""
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether a chunk must be collected before another is submitted."""
        return len(self._in_flight) >= self._lane.ahead

    def enter(self, number: int, stream: Stream) -> None:
        """Puts a stream into a free slot.

        Args:
            number: one that no stream in the loop has.
            stream: has at least one step, or its end is not known yet.
        """
        self._active[number] = _Active(stream, self._free.popleft(), stream.start)
        self._entering.add(number)

    def leave(self, number: int) -> None:
        """Takes a stream out before its end; what is in flight of it is thrown away."""
        self._free.append(self._active.pop(number).slot)
        self._entering.discard(number)

    def ended(self, number: int) -> bool:
        """Whether a stream whose end became known late has no steps left, nor any in flight; it has left, if so."""
        active = self._active[number]
        if active.in_flight or active.stop() != active.next:
            return False
        self.leave(number)
        return True

    def ready(self, number: int) -> bool:
        """Whether the conditioning of a stream's next chunk is there."""
        active = self._active[number]
        return active.stop() != active.next and active.stream.conditioning.ready(active.next)

    def chunks_in_flight(self, number: int) -> int:
        """Chunks with a part of this stream that are submitted and not collected."""
        return self._active[number].in_flight

    def left(self, number: int) -> int | None:
        """Steps of a stream that are not submitted yet; ``None`` where its end is not known."""
        active = self._active[number]
        stop = active.stop()
        return None if stop is None else stop - active.next

    def submit(self, numbers: Iterable[int]) -> None:
        """Begins a chunk of some of the streams, at least one, each ready; the others stay as they are."""
        chosen = {number: self._active[number] for number in numbers}
        entering = [one.slot for number, one in chosen.items() if number in self._entering]
        self._lane.submit(self._chunk(chosen.values()), [one.slot for one in chosen.values()], entering)
        self._entering -= chosen.keys()
        parts = []
        for number, one in chosen.items():
            start, stop = one.next, one.stop()
            one.next = start + self._windows.steps if stop is None else min(start + self._windows.steps, stop)
            one.in_flight += 1
            parts.append(_Part(number, start, one.next - start, one.next == stop))
            if parts[-1].last:
                self.leave(number)
        self._in_flight.append(parts)

    def collect(self) -> list[Piece]:
        """Waits for the chunk that was submitted first."""
        samples = self._lane.collect()
        parts = self._in_flight.popleft()
        for part in parts:
            if part.stream in self._active:
                self._active[part.stream].in_flight -= 1
        return [
            Piece(part.stream, part.start, row[: part.count], part.last)
            for part, row in zip(parts, samples, strict=True)
        ]

    def _chunk(self, chosen: Iterable[_Active]) -> Chunk:
        cuts = [one.stream.conditioning.window(one.next) for one in chosen]
        model, steps = self._windows.model, self._windows.steps
        uniforms = [sampling_inputs(model, one.stream.uniforms.draw(steps)) for one in chosen]
        return Chunk(
            np.stack([cut.rows for cut in cuts]),  # [B, W, columns]
            np.stack([cut.frame_index for cut in cuts]),  # [B, T]
            np.stack([cut.interpolation for cut in cuts]),  # [B, G, T, W]
            np.stack(uniforms),  # [B, T, U]
        )


def decode_streams(
    executor: Executor, windows: ConditioningWindows, streams: Iterable[Stream], batch: int
) -> Iterator[Piece]:
    """Decodes streams whose conditioning is all there, in the calling thread, pulling each only when there is room.

    Args:
        executor: decodes.
        windows: cuts conditioning into chunks; its number of steps is the chunk's.
        streams: what to decode; may be a generator.
        batch: streams at a time; an executor with fixed slots takes as many as it has.

    Yields:
        Pieces, each stream's in order, those of different streams interleaved; they are numbered as they come.
    """
    waiting = enumerate(streams)
    with executor.lane(batch) as lane:
        loop = LaneLoop(lane, windows)
        while True:
            while not loop.full:
                while loop.free and (arrived := next(waiting, None)) is not None:
                    loop.enter(*arrived)
                if not loop.streams:
                    break
                loop.submit(list(loop.streams))
            if not loop.in_flight:
                return
            yield from loop.collect()
