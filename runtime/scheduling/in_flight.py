"""A scheduler's utterances from admission to completion, and the lock that guards queues, slots and counters.

Neither computation nor a caller's callback runs while the lock is held.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Literal

from wavernn_trt.runtime.errors import ClosedError, DeadlineError, ExecutorError, QueueFullError, VocoderError
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.statistics import Counters
from wavernn_trt.runtime.scheduling.utterance import URGENCIES, Urgency, Utterance, UtteranceStream

SchedulerState = Literal["ready", "draining", "broken", "closed"]

_IN_A_ROW = 4
"""Consecutive interactive utterances after which a batch utterance comes next: batch work never starves."""


class UtteranceQueue:
    """Queue in order of arrival, interactive utterances first, with a guaranteed share for batch work."""

    def __init__(self) -> None:
        """Creates an empty queue."""
        self._waiting: dict[Urgency, dict[Utterance, None]] = {urgency: {} for urgency in URGENCIES}
        self._in_a_row = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Utterance]:
        for utterances in self._waiting.values():
            yield from utterances

    def count(self, urgency: Urgency) -> int:
        """Returns the number of utterances of one urgency."""
        return len(self._waiting[urgency])

    def append(self, utterance: Utterance) -> None:
        """Adds an utterance behind the others of its urgency."""
        self._waiting[utterance.urgency][utterance] = None

    def prepend(self, utterance: Utterance) -> None:
        """Adds an utterance before the others of its urgency."""
        self._waiting[utterance.urgency] = {utterance: None, **self._waiting[utterance.urgency]}

    def remove(self, utterance: Utterance) -> None:
        """Removes an utterance if it is in the queue."""
        self._waiting[utterance.urgency].pop(utterance, None)

    def first(self, *, interactive: bool = True, batch: bool = True) -> Utterance | None:
        """Returns the next utterance without removing it; ``None`` if there is none.

        Args:
            interactive: whether interactive utterances are considered.
            batch: whether batch utterances are considered.
        """
        interactive_head = next(iter(self._waiting["interactive"]), None) if interactive else None
        batch_head = next(iter(self._waiting["batch"]), None) if batch else None
        if interactive_head is not None and (batch_head is None or self._in_a_row < _IN_A_ROW):
            return interactive_head
        return batch_head

    def took(self, utterance: Utterance) -> None:
        """Records that an utterance was selected, for the share of batch work."""
        self._in_a_row = self._in_a_row + 1 if utterance.urgency == "interactive" else 0


class InFlight:
    """State shared by lanes, conditioning threads and callers. Attributes are read and changed with ``lock`` held."""

    def __init__(self, limits: SchedulerLimits, chunk: int) -> None:
        """Creates the state without utterances.

        Args:
            limits: maximum number of waiting utterances.
            chunk: steps of a chunk.
        """
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Notified when a waiting thread may continue: new work, room in the queue or a sink, or the end."""
        self.utterances: dict[Utterance, None] = {}
        """All utterances that have not ended."""
        self.fresh = UtteranceQueue()
        """Utterances whose conditioning has not begun."""
        self.conditioning: dict[Utterance, None] = {}
        """Utterances being conditioned."""
        self.ready = UtteranceQueue()
        """Conditioned utterances with a stream that has not had a slot."""
        self.conditioning_bytes = 0
        self.counters = Counters()
        self.broken: ExecutorError | None = None
        """The error after which the executor is no longer used; ``None`` while it works."""
        self.draining = False
        self.closed = False
        self._limits = limits
        self._chunk = chunk
        self._dated: dict[Utterance, None] = {}  # utterances with a deadline
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that made the scheduler; its threads do not exist here."""
        return os.getpid() != self._process

    @property
    def waiting(self) -> int:
        """Number of utterances that wait for a slot."""
        return len(self.fresh) + len(self.conditioning) + len(self.ready)

    def check_open(self) -> None:
        """Checks that new work is accepted; called with or without the lock, which may stay locked after a fork.

        Raises:
            ExecutorError: the executor has failed too often.
            ClosedError: the scheduler is closed or draining.
            VocoderError: the process was forked after the scheduler was made.
        """
        self.check_process()
        if self.broken is not None:
            raise ExecutorError(str(self.broken))
        if self.closed:
            raise ClosedError("this vocoder is closed; load the model again")
        if self.draining:
            raise ClosedError("this vocoder is draining and takes no new requests")

    def check_process(self) -> None:
        """Checks that this is the process that made the scheduler.

        Raises:
            VocoderError: the process was forked after the scheduler was made.
        """
        if self.forked:
            raise VocoderError("this vocoder was loaded before the process was forked; load it in each process")

    @property
    def state(self) -> SchedulerState:
        """``ready`` if work is accepted, else the reason why it is not."""
        if self.closed:
            return "closed"
        if self.broken is not None:
            return "broken"
        return "draining" if self.draining else "ready"

    def drain(self, seconds: float | None) -> bool:
        """Refuses new work; returns whether all utterances ended within ``seconds`` (``None``: no limit)."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()  # callers that wait for room in the queue
            return self.changed.wait_for(lambda: not self.utterances, seconds)

    def admit(self, utterance: Utterance, seconds: float | None, *, wait: bool) -> None:
        """Queues an utterance; called with the lock, which is released while it waits for room.

        Args:
            utterance: the utterance to queue.
            seconds: its deadline as the caller gave it, for the error.
            wait: whether to wait while the queue is full.

        Raises:
            QueueFullError: the queue is full, and ``wait`` is false.
            DeadlineError: the queue had no room before the deadline.
            ExecutorError: as for `check_open`.
            VocoderError: as for `check_open`.
        """
        self.check_open()
        while self.waiting >= self._limits.queue:
            if not wait:
                raise QueueFullError(
                    f"queue: found {self.waiting} utterances waiting, expected fewer than {self._limits.queue}; "
                    "wait for some, submit with wait=True, or allow more (SchedulerLimits.queue)"
                )
            left = None
            if utterance.deadline is not None:
                left = min(utterance.deadline - time.monotonic(), threading.TIMEOUT_MAX)
                if left <= 0:
                    self.counters.totals.dropped += 1
                    raise DeadlineError(
                        f"deadline: found {seconds:g} s, in which the queue had no room; allow more time, or submit "
                        "less at a time"
                    )
            self.changed.wait(left)
            self.check_open()
        self.utterances[utterance] = None
        if utterance.deadline is not None:
            self._dated[utterance] = None
        self.fresh.append(utterance)
        self.changed.notify_all()

    def pause(self, seconds: float | None = None) -> bool:
        """Waits for a notification, at most ``seconds``; returns whether to continue. Called with the lock."""
        if not self.closed:
            self.changed.wait(seconds)
        return not self.closed

    def wake(self) -> None:
        """Has paused streams checked again, after room in a sink or new conditioning."""
        with self.changed:
            self.changed.notify_all()

    def take_stream(self, utterance: Utterance) -> UtteranceStream:
        """Takes the next stream of a ready utterance for a slot; called with the lock."""
        stream = utterance.waiting.popleft()
        utterance.started = True
        self.ready.took(utterance)
        if utterance.waiting:
            utterance.waiting[0].ready()  # starts the computation of its first rows
        else:
            self.ready.remove(utterance)
            self.changed.notify_all()  # the queue has room, and another utterance can be conditioned
        return stream

    def delivered(self, utterance: Utterance, samples: int, *, complete: bool) -> None:
        """Records samples delivered to a sink, and ends a complete utterance; called without the lock."""
        ticket = utterance.ticket
        if samples and ticket.first_samples is None:
            ticket.first_samples = time.monotonic()
            with self.lock:
                self.counters.first_samples.add(ticket.first_samples - ticket.submitted)
        if complete:
            conditioning = utterance.conditioning
            self.end(utterance, None if conditioning is None else conditioning.error)

    def drop_late(self) -> None:
        """Ends utterances that cannot meet their deadline; called without the lock."""
        if not self._dated:
            return
        with self.lock:
            late = [utterance for utterance in self._dated if not self._can_be_ready(utterance)]
        for utterance in late:
            message = "deadline: the waveform cannot be complete in time; allow more time, or submit less at a time"
            self.end(utterance, DeadlineError(message))

    def end(self, utterance: Utterance, error: BaseException | None) -> None:
        """Ends an utterance with its waveform or an error; no effect if it has ended. Called without the lock."""
        with self.changed:
            if utterance not in self.utterances:
                return
            del self.utterances[utterance]
            self._dated.pop(utterance, None)
            self.fresh.remove(utterance)
            self.ready.remove(utterance)
            self.conditioning_bytes -= utterance.held_bytes
            utterance.held_bytes = 0
            utterance.conditioning = None
            utterance.ended = True
            utterance.waiting.clear()
            self.changed.notify_all()
        waveform = None
        try:
            waveform = utterance.finish(error)
        except Exception as failure:  # from the sink; the ticket must end in any case
            error = error or failure
        with self.lock:
            self.counters.ended(error, time.monotonic() - utterance.ticket.submitted)
        if not utterance.ticket.set_running_or_notify_cancel():
            return
        if error is None and waveform is not None:
            utterance.ticket.set_result(waveform)
        else:
            utterance.ticket.set_exception(error)

    def _can_be_ready(self, utterance: Utterance) -> bool:
        """Returns whether the deadline can be met if every chunk is as fast as the fastest recent one."""
        assert utterance.deadline is not None
        longest_fold = max((fold.stop - fold.first for fold in utterance.folds), default=0)
        left = longest_fold if not utterance.started else 0  # the progress of folds is not recorded before they end
        if not utterance.folds and utterance.steps is not None:
            left = utterance.steps - utterance.produced
        # If the utterance has a slot, one chunk may be in flight and almost done.
        chunks = max(0, math.ceil(left / self._chunk) - utterance.started)
        return time.monotonic() + chunks * self.counters.fastest_chunk <= utterance.deadline
