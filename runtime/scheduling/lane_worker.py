"""A lane's thread: who sits in its slots, and whom the next chunk is of."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Piece, Stream
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.scheduling.tasks import Task, Urgency

_URGENT_TIME = 4.0
"""How many times as long as a chunk of all streams those of urgent ones alone may take, before there is another of all:
so batch work has a fifth of the time under any load."""
_URGENT_AT_FIRST = 4
"""Chunks of urgent streams alone while it is not known how long one of all takes."""
_POLL_SECONDS = 0.01
"""Between two looks at streams that are paused, in case nobody says that they can go on."""


@dataclass(frozen=True)
class Seat:
    """Whom a slot is given to."""

    task: Task
    attempt: int
    fold: int

    @property
    def vacant(self) -> bool:
        """Whether the utterance has ended, or was begun again elsewhere."""
        return self.task.ended or self.attempt != self.task.attempts


class Orders(Protocol):
    """What a lane asks of its scheduler, and tells it."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards who sits where, and what waits."""

    def drop_late(self) -> None:
        """Ends what cannot meet its deadline; called without the lock."""

    def pick(self, lane: LaneWorker, *, batch: bool) -> tuple[Task, int, Stream] | None:
        """The stream that is to have a free slot, if any; called with the lock.

        Args:
            lane: has a free slot.
            batch: whether it may be given to batch work.
        """

    def rest(self, seconds: float | None) -> bool:
        """Waits until something may have changed; returns whether to go on. Called with the lock."""

    def submitting(self, rows: int, slots: int) -> None:
        """A chunk of all streams begins, so many of batch work; called with the lock."""

    def decoded(self, seconds: float, samples: int) -> None:
        """A call of the executor took so long and yielded so much; called with the lock."""

    def delivered(self, task: Task, samples: int, *, complete: bool) -> None:
        """An utterance's sink was given samples; called without the lock."""

    def spoiled(self, task: Task, error: Exception) -> None:
        """An utterance cannot go on, though its lane can; called without the lock."""

    def lost(self, lane: LaneWorker, error: BaseException) -> None:
        """The lane's executor failed; called without the lock, last of all."""


class LaneWorker:
    """Decodes chunk after chunk, with the streams that the scheduler picks."""

    def __init__(
        self, executor: Executor, windows: ConditioningWindows, orders: Orders, *, slots: int, batch_slots: int
    ) -> None:
        """Prepares a lane; `run` opens it.

        Args:
            executor: decodes.
            windows: cuts conditioning into chunks.
            orders: the scheduler.
            slots: streams at a time.
            batch_slots: how many of them batch work may take.
        """
        self.seats: dict[int, Seat] = {}
        """By the number of the stream; with the lock."""
        self.busy_since: float | None = None
        """When the executor was called that has not returned, on the clock of `time.monotonic`; with the lock. Opening
        the lane is such a call."""
        self.open = False
        """Whether the executor has made the lane; with the lock."""
        self.abandoned = False
        """Whether nobody waits for this lane any more; with the lock."""
        self._executor = executor
        self._windows = windows
        self._orders = orders
        self._slots = slots
        self._batch_slots = batch_slots
        self._entered = 0
        self._urgent_chunks = 0
        self._urgent_seconds = 0.0
        self._full_seconds: float | None = None
        self._spoiled: list[tuple[Task, Exception]] = []  # whose sinks failed when they were asked

    @property
    def has_room(self) -> bool:
        """Whether a slot is free; with the lock."""
        return len(self.seats) < self._slots

    def seated(self, urgency: Urgency) -> int:
        """How many streams of one urgency have a slot; with the lock."""
        return sum(seat.task.urgency == urgency for seat in self.seats.values())

    def run(self) -> None:
        """Decodes until the scheduler ends; what a thread of its own does."""
        try:
            with self._orders.lock:
                self.busy_since = time.monotonic()
            with self._executor.lane(self._slots) as lane:
                loop = LaneLoop(lane, self._windows)
                with self._orders.lock:
                    self.open, self.busy_since = True, None
                while self._turn(loop):
                    pass
        except BaseException as error:  # whatever it is, others wait for this lane
            self._orders.lost(self, error)

    def _turn(self, loop: LaneLoop) -> bool:
        """One chunk begun, or one collected, or both; returns whether to go on."""
        self._orders.drop_late()
        with self._orders.lock:
            if self.abandoned:
                return False
            finished = self._clear(loop)
            self._fill(loop)
            chosen = self._choose(loop)
            spoiled, self._spoiled = self._spoiled, []
            if not chosen and not loop.in_flight and not finished and not spoiled:
                return self._orders.rest(_POLL_SECONDS if self.seats else None)
            self.busy_since = time.monotonic()
        for task, error in spoiled:
            self._orders.spoiled(task, error)
        for seat, piece in finished:
            self._deliver(seat, piece)
        if chosen:
            loop.submit(chosen)
        pieces = loop.collect() if loop.full or (not chosen and loop.in_flight) else []
        with self._orders.lock:
            seconds, self.busy_since = time.monotonic() - self.busy_since, None
            if self.abandoned:
                return False
            if self._urgent_chunks:
                self._urgent_seconds += seconds
            elif chosen:
                self._full_seconds = seconds
            collected = [(self.seats[piece.stream], piece) for piece in pieces if piece.stream in self.seats]
            for piece in pieces:
                if piece.last:
                    self.seats.pop(piece.stream, None)
            if pieces:
                self._orders.decoded(seconds, sum(len(piece.samples) for piece in pieces))
        for seat, piece in collected:
            self._deliver(seat, piece)
        return True

    def _clear(self, loop: LaneLoop) -> list[tuple[Seat, Piece]]:
        """Frees the slots of who has gone, and of streams whose end became known behind their last chunk."""
        finished = []
        for number in list(loop.streams):
            seat = self.seats[number]
            if seat.vacant:
                loop.leave(number)
                del self.seats[number]
            elif loop.ended(number):
                del self.seats[number]
                finished.append((seat, Piece(number, 0, np.zeros(0, np.int32), last=True)))
        return finished

    def _fill(self, loop: LaneLoop) -> None:
        batch = sum(self.seats[number].task.urgency == "batch" for number in loop.streams)
        while loop.free and (picked := self._orders.pick(self, batch=batch < self._batch_slots)) is not None:
            task, fold, stream = picked
            batch += task.urgency == "batch"
            self._entered += 1
            self.seats[self._entered] = Seat(task, task.attempts, fold)
            loop.enter(self._entered, stream)

    def _choose(self, loop: LaneLoop) -> list[int]:
        """The streams of the next chunk: all that can go on; or for a while only those whose listeners run short.

        A chunk of few streams takes less time than one of all, where the executor computes only those.
        """
        if loop.full:
            return []
        able = [number for number in loop.streams if loop.ready(number) and self._has_room(loop, number)]
        if not able:
            return []
        interactive = [number for number in able if self.seats[number].task.urgency == "interactive"]
        if self._executor.slots is None and 0 < len(interactive) < len(able):
            urgent = [number for number in interactive if self._is_urgent(self.seats[number].task)]
            if urgent and self._may_be_urgent():
                self._urgent_chunks += 1
                return urgent
        self._urgent_chunks = 0
        self._urgent_seconds = 0.0
        self._orders.submitting(len(able) - len(interactive), self._batch_slots)
        return able

    def _may_be_urgent(self) -> bool:
        if self._full_seconds is None:
            return self._urgent_chunks < _URGENT_AT_FIRST
        return self._urgent_seconds < _URGENT_TIME * self._full_seconds

    def _is_urgent(self, task: Task) -> bool:
        try:
            return task.sink.urgent()
        except Exception as error:  # the sink's: the others of the lane go on
            self._spoiled.append((task, error))
            return False

    def _has_room(self, loop: LaneLoop, number: int) -> bool:
        task = self.seats[number].task
        try:
            room = task.sink.room()
        except Exception as error:  # likewise
            self._spoiled.append((task, error))
            return False
        return room is None or room >= (loop.chunks_in_flight(number) + 1) * self._windows.steps

    def _deliver(self, seat: Seat, piece: Piece) -> None:
        task = seat.task
        try:
            samples, complete = task.deliver(seat.attempt, seat.fold, piece)
            if task.progress is not None:
                task.progress(len(piece.samples))
        except Exception as error:  # of the sink, or of whoever watches: the others of the chunk go on
            self._orders.spoiled(task, error)
        else:
            self._orders.delivered(task, samples, complete=complete)
