"""Utterances under way, as the scheduler keeps them, and the order in which they get slots."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from wavernn_trt.runtime.conditioning.windows import Conditioning, FloatArray, Want
from wavernn_trt.runtime.decoding.chunk_loop import Piece, Stream
from wavernn_trt.runtime.decoding.sample_coding import SampleCoding
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.scheduling.sinks import Collected, Sink
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.scheduling.utterance import Assembly, Utterance

Urgency = Literal["interactive", "batch"]
"""Whether somebody waits for an utterance, or for the whole of a job."""
URGENCIES: tuple[Urgency, ...] = ("interactive", "batch")
_IN_A_ROW = 4
"""Interactive turns after which batch work has one, so that it goes on under any load."""


@dataclass(eq=False)
class Task:
    """An utterance under way. What is said of slots and queues, the scheduler's lock guards."""

    ticket: Ticket
    utterance: Utterance
    sink: Sink
    urgency: Urgency
    deadline: float | None
    """On the clock of `time.monotonic`."""
    progress: Callable[[int], None] | None
    attempts: int = 1
    """Which attempt this is; seats and pieces of an earlier one do not count."""
    conditioning: Conditioning | None = None
    waiting: deque[tuple[int, Stream]] = field(default_factory=deque)
    """Streams of this attempt that have no slot yet, and which fold each is."""
    started: bool = False
    """Whether one of them has had a slot."""
    ended: bool = False
    delivery: Any = field(default_factory=threading.RLock)
    """Guards what follows, and the sink: folds may be decoded in several lanes, and anyone may cancel, the sink too."""
    assembly: Assembly | None = None
    guards: list[OutputGuard] = field(default_factory=list)
    produced: int = 0
    """Samples of this attempt's waveform."""
    delivered: int = 0
    """Samples that the sink was given, in this attempt or an earlier one."""

    def begin(self, conditioning: Conditioning, coding: SampleCoding, want: Want) -> None:
        """Begins an attempt; no lane has the utterance, or none that matters. ``want``: see `Conditioning`."""
        with self.delivery:
            self.assembly = Assembly(self.utterance, coding)
            guard = self.utterance.guard()
            self.guards = [guard, *(guard.another() for _ in self.utterance.folds[1:])]
            self.produced = 0
        self.started = False
        self.waiting = deque(enumerate(self.utterance.streams(conditioning, want)))

    def deliver(self, attempt: int, fold: int, piece: Piece) -> tuple[int, bool]:
        """Gives the sink what a piece adds to the waveform.

        An utterance that was begun again yields the same samples again; the sink has had the first of them.

        Raises:
            DamagedOutputError: the samples cannot be right.

        Returns:
            How many samples the sink was given, and whether the waveform is whole.
        """
        with self.delivery:
            if self.ended or attempt != self.attempts:
                return 0, False
            assert self.assembly is not None
            self.guards[fold].check(piece.start, piece.samples)
            samples = self.assembly.add(fold, piece.samples, last=piece.last)
            fresh = samples[max(0, self.delivered - self.produced) :]
            self.produced += len(samples)
            if len(fresh):
                self.delivered += len(fresh)
                self.sink.write(fresh)
            return len(fresh), self.assembly.complete

    def finish(self, error: BaseException | None) -> None:
        """Tells the sink that no more will come."""
        with self.delivery:
            self.ended = True
            self.sink.finish(error)

    def waveform(self) -> FloatArray:
        """What the ticket yields: nothing, where the sink is the caller's."""
        return self.sink.waveform() if isinstance(self.sink, Collected) else np.zeros(0, np.float32)


class Queue:
    """Tasks in the order in which they came, the interactive before the others, but not for ever."""

    def __init__(self) -> None:
        """Begins empty."""
        self._tasks: dict[Urgency, dict[Task, None]] = {urgency: {} for urgency in URGENCIES}
        self._in_a_row = 0

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._tasks.values()))

    def __iter__(self) -> Iterator[Task]:
        """All of them."""
        for tasks in self._tasks.values():
            yield from tasks

    def waiting(self, urgency: Urgency) -> int:
        """How many of one urgency there are."""
        return len(self._tasks[urgency])

    def append(self, task: Task) -> None:
        """Puts a task behind the others of its urgency."""
        self._tasks[task.urgency][task] = None

    def prepend(self, task: Task) -> None:
        """Puts a task in front of the others of its urgency."""
        self._tasks[task.urgency] = {task: None, **self._tasks[task.urgency]}

    def remove(self, task: Task) -> None:
        """Takes a task out, if it is there."""
        self._tasks[task.urgency].pop(task, None)

    def first(self, *, interactive: bool = True, batch: bool = True) -> Task | None:
        """Whose turn it is; the task stays.

        Args:
            interactive: whether interactive work may have a turn now.
            batch: whether batch work may.
        """
        live = next(iter(self._tasks["interactive"]), None) if interactive else None
        rest = next(iter(self._tasks["batch"]), None) if batch else None
        return live if live is not None and (rest is None or self._in_a_row < _IN_A_ROW) else rest

    def took(self, task: Task) -> None:
        """Is told that a task had its turn."""
        self._in_a_row = self._in_a_row + 1 if task.urgency == "interactive" else 0
