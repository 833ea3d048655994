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
"""How many times as long as a chunk of all streams those of urgent ones alone may take, before there is another of all:
so batch work has a fifth of the time under any load."""
_URGENT_AT_FIRST = 4
"""Chunks of urgent streams alone while it is not known how long one of all takes."""
_POLL_SECONDS = 0.01
"""Between two looks at streams that are paused, in case no notification comes when they can go on."""


class LaneWorker:
    """Decodes chunk after chunk in one lane. Its public attributes are read and changed with the scheduler's lock."""

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
        """Prepares a lane; `run` opens it.

        Args:
            executor: decodes.
            windows: cuts conditioning into chunks.
            flight: the scheduler's utterances.
            lanes: all lanes of the scheduler, as they come and go.
            slots: streams at a time.
            batch_slots: how many of them batch work may take.
        """
        self.loop: LaneLoop[UtteranceStream] | None = None
        """The lane's slots; ``None`` until the executor has opened the lane."""
        self.busy_since: float | None = None
        """When the executor was called that has not returned, on the clock of `time.monotonic`. Opening the lane is
        such a call."""
        self.abandoned = False
        """Whether the lane is lost or closed; what its executor still returns is ignored."""
        self._executor = executor
        self._windows = windows
        self._flight = flight
        self._lanes = lanes
        self._slots = slots
        self._batch_slots = batch_slots
        self._urgent_chunks = 0
        self._urgent_seconds = 0.0
        self._full_seconds: float | None = None
        self._failed_sinks: list[tuple[Utterance, Exception]] = []  # they raised when they were asked

    @property
    def streams(self) -> Collection[UtteranceStream]:
        """The streams in its slots, and those whose last chunk is in flight."""
        return () if self.loop is None else self.loop.table

    def count(self, urgency: Urgency) -> int:
        """How many streams of one urgency it has."""
        return sum(stream.utterance.urgency == urgency for stream in self.streams)

    def run(self, lost: Callable[[LaneWorker, BaseException], None]) -> None:
        """Decodes until the scheduler ends; what a thread of its own does.

        Args:
            lost: called, last of all, with what the executor raised.
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
        except BaseException as error:  # whatever it is, utterances wait for this lane
            lost(self, error)

    def _turn(self, loop: LaneLoop[UtteranceStream]) -> bool:
        """Submits a chunk, collects one, or both; returns whether to go on."""
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
        """Frees the slots of stale streams, and of those whose end became known behind their last chunk."""
        finished = []
        for stream in loop.streams:
            if stream.stale:
                loop.leave(stream)
            elif stream.ended:
                loop.leave(stream)
                finished.append(Piece(stream, stream.next, 0, last=True))
        return finished

    def _fill(self, loop: LaneLoop[UtteranceStream]) -> None:
        """Gives free slots to the streams whose turn it is."""
        batch = sum(stream.utterance.urgency == "batch" for stream in loop.streams)
        while loop.free and (utterance := self._flight.ready.first(batch=batch < self._batch_slots)) is not None:
            others = (lane.count(utterance.urgency) for lane in self._lanes if lane.has_room)
            if self.count(utterance.urgency) > min(others, default=math.inf):
                return  # another lane has less to do
            batch += utterance.urgency == "batch"
            loop.enter(self._flight.take_stream(utterance))

    @property
    def has_room(self) -> bool:
        """Whether it is open, with a slot that no stream needs."""
        return self.loop is not None and len(self.loop.table) < self._slots

    def _choose(self, loop: LaneLoop[UtteranceStream]) -> list[UtteranceStream]:
        """The streams of the next chunk: all that can go on, or for a while only those whose listeners run short.

        A chunk of few streams takes less time than one of all, where the executor computes only those.
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
        except Exception as error:  # the sink's: the others of the lane go on
            self._failed_sinks.append((utterance, error))
            return False

    def _has_room(self, stream: UtteranceStream) -> bool:
        try:
            room = stream.utterance.sink.room()
        except Exception as error:  # likewise
            self._failed_sinks.append((stream.utterance, error))
            return False
        return room is None or room >= (stream.in_flight + 1) * self._windows.steps

    def _deliver(self, piece: Piece[UtteranceStream]) -> None:
        utterance = piece.stream.utterance
        try:
            samples, complete = utterance.deliver(piece)
            if utterance.progress is not None:
                utterance.progress(piece.count)
        except Exception as error:  # of the sink, the output guard or the progress callback: the others go on
            self._flight.end(utterance, error)
        else:
            self._flight.delivered(utterance, samples, complete=complete)
