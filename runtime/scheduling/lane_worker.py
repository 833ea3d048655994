"""Worker thread of a lane: assigns slots, and selects the streams of the next chunk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Piece
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.scheduling.in_flight import InFlight
from wavernn_trt.runtime.scheduling.utterance import Urgency, Utterance, UtteranceStream

_URGENT_TIME = 4.0
"""Maximum total time of consecutive chunks of urgent streams only, in multiples of the time of a chunk of all
streams: batch work then gets a fifth of the time under any load."""
_URGENT_AT_FIRST = 4
"""Maximum number of such chunks while the time of a chunk of all streams has not been measured."""
_POLL_SECONDS = 0.01
"""Interval at which paused streams are checked, in case no notification comes."""


class LaneWorker:
    """Decodes chunks in one lane. Public attributes are read and changed with the scheduler's lock."""

    def __init__(
        self,
        executor: Executor,
        windows: ConditioningWindows,
        flight: InFlight,
        lanes: Sequence[LaneWorker],
        *,
        slots: int,
        batch_slots: int,
    ) -> None:
        """Creates the worker; `run` opens the lane.

        Args:
            executor: decodes the chunks.
            windows: cuts conditioning into chunks.
            flight: the scheduler's utterances.
            lanes: the scheduler's live list of lanes.
            slots: maximum number of streams at a time.
            batch_slots: maximum number of slots for batch work.
        """
        self.loop: LaneLoop[UtteranceStream] | None = None
        """The lane's slots; ``None`` until the executor has opened the lane."""
        self.busy_since: float | None = None
        """Start of the executor call in progress (opening the lane included), on the clock of `time.monotonic`;
        ``None`` between calls."""
        self.abandoned = False
        """Whether the lane is lost or closed; later results of its executor are ignored."""
        self._executor = executor
        self._windows = windows
        self._flight = flight
        self._lanes = lanes
        self._slots = slots
        self._batch_slots = batch_slots
        self._urgent_chunks = 0
        self._urgent_seconds = 0.0
        self._full_seconds: float | None = None
        self._failed_sinks: list[tuple[Utterance, Exception]] = []  # their `room` or `urgent` raised

    @property
    def streams(self) -> Collection[UtteranceStream]:
        """Streams in the lane's slots, and those whose last chunk is in flight."""
        return () if self.loop is None else self.loop.table

    def count(self, urgency: Urgency) -> int:
        """Returns the number of the lane's streams of one urgency."""
        return sum(stream.utterance.urgency == urgency for stream in self.streams)

    def run(self, lost: Callable[[LaneWorker, BaseException], None]) -> None:
        """Decodes until the scheduler is closed; the body of the lane's thread.

        Args:
            lost: called as the last step if the executor raises, with the worker and the error.
        """
        try:
            with self._flight.lock:
                self.busy_since = time.monotonic()
            with self._executor.lane(self._slots) as lane:
                loop: LaneLoop[UtteranceStream] = LaneLoop(lane, self._windows)
                with self._flight.lock:
                    self.loop, self.busy_since = loop, None
                while self._turn(loop):
                    pass
        except BaseException as error:  # of any kind: utterances wait for this lane
            lost(self, error)

    def _turn(self, loop: LaneLoop[UtteranceStream]) -> bool:
        """Submits a chunk, collects one, or both; returns whether to continue."""
        self._flight.drop_late()
        with self._flight.lock:
            if self.abandoned:
                return False
            finished = self._clear(loop)
            self._fill(loop)
            chosen = self._choose(loop)
            failed, self._failed_sinks = self._failed_sinks, []
            if not chosen and not loop.in_flight and not finished and not failed:
                return self._flight.pause(_POLL_SECONDS if loop.table else None)
            self.busy_since = time.monotonic()
        for utterance, error in failed:
            self._flight.end(utterance, error)
        for piece in finished:
            self._deliver(piece)
        if chosen:
            loop.submit(chosen)
        collected = loop.collect() if loop.full or (not chosen and loop.in_flight) else []
        with self._flight.lock:
            seconds, self.busy_since = time.monotonic() - self.busy_since, None
            if self.abandoned:
                return False
            if self._urgent_chunks:
                self._urgent_seconds += seconds
            elif chosen:
                self._full_seconds = seconds
            pieces = [piece for piece in collected if piece.stream in loop.table]
            for piece in pieces:
                if piece.last:
                    loop.leave(piece.stream)
            if collected:
                self._flight.counters.decoded(seconds, sum(piece.count for piece in collected))
        for piece in pieces:
            self._deliver(piece)
        return True

    def _clear(self, loop: LaneLoop[UtteranceStream]) -> list[Piece[UtteranceStream]]:
        """Frees the slots of stale streams, and of those whose mel ended after their last chunk was submitted.

        Returns:
            An empty last piece for each of the latter.
        """
        finished = []
        for stream in loop.streams:
            if stream.stale:
                loop.leave(stream)
            elif stream.ended:
                loop.leave(stream)
                finished.append(Piece(stream, stream.next, 0, last=True))
        return finished

    def _fill(self, loop: LaneLoop[UtteranceStream]) -> None:
        """Assigns free slots to the next streams of the queue."""
        batch = sum(stream.utterance.urgency == "batch" for stream in loop.streams)
        while loop.free and (utterance := self._flight.ready.first(batch=batch < self._batch_slots)) is not None:
            others = (lane.count(utterance.urgency) for lane in self._lanes if lane.has_room)
            if self.count(utterance.urgency) > min(others, default=math.inf):
                return  # another lane has fewer streams
            batch += utterance.urgency == "batch"
            loop.enter(self._flight.take_stream(utterance))

    @property
    def has_room(self) -> bool:
        """Whether the lane is open and has a free slot."""
        return self.loop is not None and len(self.loop.table) < self._slots

    def _choose(self, loop: LaneLoop[UtteranceStream]) -> list[UtteranceStream]:
        """Selects the streams of the next chunk: all that can continue, or for a limited time only the urgent ones.

        If the number of slots is open, a chunk of few streams takes less time than a chunk of all.
        """
        if loop.full:
            return []
        able = [stream for stream in loop.streams if stream.ready() and self._has_room(stream)]
        if not able:
            return []
        interactive = [stream for stream in able if stream.utterance.urgency == "interactive"]
        if self._executor.slots is None and 0 < len(interactive) < len(able):
            urgent = [stream for stream in interactive if self._is_urgent(stream.utterance)]
            if urgent and self._may_be_urgent():
                self._urgent_chunks += 1
                return urgent
        self._urgent_chunks = 0
        self._urgent_seconds = 0.0
        if self._flight.waiting:
            self._flight.counters.submitted(len(able) - len(interactive), self._batch_slots)
        return able

    def _may_be_urgent(self) -> bool:
        if self._full_seconds is None:
            return self._urgent_chunks < _URGENT_AT_FIRST
        return self._urgent_seconds < _URGENT_TIME * self._full_seconds

    def _is_urgent(self, utterance: Utterance) -> bool:
        try:
            return utterance.sink.urgent()
        except Exception as error:  # from the sink: the lane's other streams continue
            self._failed_sinks.append((utterance, error))
            return False

    def _has_room(self, stream: UtteranceStream) -> bool:
        try:
            room = stream.utterance.sink.room()
        except Exception as error:  # from the sink
            self._failed_sinks.append((stream.utterance, error))
            return False
        return room is None or room >= (stream.in_flight + 1) * self._windows.steps

    def _deliver(self, piece: Piece[UtteranceStream]) -> None:
        utterance = piece.stream.utterance
        try:
            samples, complete = utterance.deliver(piece)
            if utterance.progress is not None:
                utterance.progress(piece.count)
        except Exception as error:  # from sink, output guard or progress callback: other streams continue
            self._flight.end(utterance, error)
        else:
            self._flight.delivered(utterance, samples, complete=complete)
