"""Conditioning of long mels, block by block, before the streams that are being decoded need it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from wavernn_trt.runtime.errors import VocoderError, executor_error
from wavernn_trt.runtime.scheduling.tasks import Task

Work = Callable[[], None]


class Owner(Protocol):
    """What is needed of the scheduler."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards the queue of work."""

    def rest(self, seconds: float | None) -> bool:
        """Waits until something may have changed; returns whether to go on. Called with the lock."""

    def wake(self) -> None:
        """Has paused streams looked at again."""

    def spoiled(self, task: Task, error: BaseException) -> None:
        """Ends an utterance; called without the lock."""


class ConditioningAhead:
    """A thread that does the work which streams ask for, in the order in which they ask.

    Each piece of work is one run of the conditioner over a block. An error ends the utterance that asked.
    """

    def __init__(self, owner: Owner, queue: deque[tuple[Task, Work]] | None = None) -> None:
        """Prepares; `run` is what the thread does.

        Args:
            owner: the scheduler.
            queue: work to begin with, of one that this one replaces.
        """
        self.started = queue is not None
        """Whether its thread runs; with the lock."""
        self._owner = owner
        self._queue: deque[tuple[Task, Work]] = deque() if queue is None else queue
        self._busy: tuple[Task, float] | None = None  # with the lock: since when, on the clock of `time.monotonic`
        self._replaced = False  # with the lock

    def want(self, task: Task, work: Work) -> None:
        """Adds work for an utterance; with the lock."""
        self._queue.append((task, work))
        self._owner.wake()

    def late(self, since: float) -> Task | None:
        """The utterance whose work began before ``since`` and has not returned; with the lock."""
        return self._busy[0] if self._busy is not None and self._busy[1] < since else None

    def successor(self) -> ConditioningAhead:
        """One that takes over what waits, while this one's thread hangs; with the lock."""
        self._replaced = True
        return ConditioningAhead(self._owner, self._queue)

    def run(self) -> None:
        """Works until the scheduler is closed, or another takes over."""
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Does a piece of work, or waits for one; returns whether to go on. Keeps neither mel nor rows."""
        with self._owner.lock:
            if not self._queue:
                return self._owner.rest(None)
            task, work = self._queue.popleft()
            if task.ended:
                return True
            self._busy = task, time.monotonic()
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # streams wait for this thread, whatever it is
            failure = error
        with self._owner.lock:
            if self._replaced:
                return False
            self._busy = None
        if failure is None:
            self._owner.wake()
        else:
            self._owner.spoiled(task, failure if isinstance(failure, VocoderError) else executor_error(failure))
        return True
