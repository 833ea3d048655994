"""What the threads of a run share: what is under way, and what they tell whoever takes the results."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobResult
from wavernn_trt.runtime.jobs.room import Room
from wavernn_trt.runtime.scheduling.ticket import Ticket


@dataclass(frozen=True, eq=False)
class UnderWay:
    """A job that is with the vocoder, or with the writer."""

    job: Job
    started: float
    """When its input was read, on the clock of `time.perf_counter`."""
    size: int
    """Bytes that it has in the `Room`."""
    warnings: tuple[str, ...] = ()
    """See `JobResult`."""


@dataclass(frozen=True)
class Ended:
    """A job is under way no more."""

    result: JobResult | None
    """``None`` if it is left for another run."""
    size: int = 0
    submitted: bool = False
    """Whether the vocoder had it."""


@dataclass(frozen=True)
class Exhausted:
    """All jobs were read."""


@dataclass(frozen=True)
class Halted:
    """The run is to end before its jobs do."""

    error: BaseException | None = None
    """To be raised when what is under way has ended."""
    at_once: bool = False
    """Whether what is under way cannot end any more."""


Message = Ended | Exhausted | Halted


class JobState:
    """What is under way."""

    def __init__(self, slots: int) -> None:
        """Begins with nothing.

        Args:
            slots: utterances that are decoded together.
        """
        self.room = Room(slots)
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        """For whoever takes the results."""
        self.decoded: queue.SimpleQueue[tuple[UnderWay, Ticket] | None] = queue.SimpleQueue()
        """For the writer; ``None`` is the end."""
        self.submitted = 0
        """Jobs that the vocoder was given; final when the run is stopped."""
        self.stopped = False
        """Whether no job is begun any more."""
        self.full = False
        """Whether no output can be written any more."""
        self._lock = threading.Lock()
        self._tickets: dict[UnderWay, Ticket] = {}

    def follow(self, one: UnderWay, ticket: Ticket) -> None:
        """Takes what the vocoder was given; the writer gets it when it is decoded."""
        with self._lock:
            if not self.stopped:
                self.submitted += 1
                self._tickets[one] = ticket
                follows = True
            else:
                follows = False
        if follows:
            ticket.add_done_callback(partial(_hand_over, self.decoded, one))
        else:
            ticket.cancel()

    def ended(self, one: UnderWay, result: JobResult | None) -> None:
        """Tells of a job that the vocoder had."""
        with self._lock:
            del self._tickets[one]
        self.messages.put(Ended(result, one.size, submitted=True))

    def stop(self) -> None:
        """Begins nothing new, and gives up what is not decoded."""
        with self._lock:
            self.stopped = True
            tickets = list(self._tickets.values())
        self.room.close()
        for ticket in tickets:
            ticket.cancel()

    def halt(self, error: BaseException) -> None:
        """Stops, and has the error raised."""
        self.stop()
        self.messages.put(Halted(error))

    def guarded(self, work: Callable[[], None], *, at_once: bool) -> None:
        """What a thread does: whatever it fails with, others wait for it.

        Args:
            work: that.
            at_once: see `Halted`.
        """
        try:
            work()
        except BaseException as error:
            self.stop()
            self.messages.put(Halted(error, at_once))


def _hand_over(decoded: queue.SimpleQueue[Any], one: UnderWay, ticket: Future[FloatArray]) -> None:
    decoded.put((one, ticket))
