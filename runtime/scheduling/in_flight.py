"""The utterances of a scheduler from admission to their end, and the one lock that guards queues, slots and counters.

Nothing that computes, and nothing of a caller's, runs while the lock is held.
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
"""Interactive turns after which batch work has one, so that it goes on under any load."""


class UtteranceQueue:
    """Utterances in the order of arrival, interactive ones first, with a share for batch work."""

    def __init__(self) -> None:
        """Begins empty."""
        self._waiting: dict[Urgency, dict[Utterance, None]] = {urgency: {} for urgency in URGENCIES}
        self._in_a_row = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Utterance]:
        for utterances in self._waiting.values():
            yield from utterances

    def count(self, urgency: Urgency) -> int:
        """How many of one urgency there are."""
        return len(self._waiting[urgency])

    def append(self, utterance: Utterance) -> None:
        """Puts an utterance behind the others of its urgency."""
        self._waiting[utterance.urgency][utterance] = None

    def prepend(self, utterance: Utterance) -> None:
        """Puts an utterance in front of the others of its urgency."""
        self._waiting[utterance.urgency] = {utterance: None, **self._waiting[utterance.urgency]}

    def remove(self, utterance: Utterance) -> None:
        """Takes an utterance out, if it is there."""
        self._waiting[utterance.urgency].pop(utterance, None)

    def first(self, *, interactive: bool = True, batch: bool = True) -> Utterance | None:
        """The utterance whose turn it is; it stays.

        Args:
            interactive: whether interactive work may have a turn now.
            batch: whether batch work may.
        """
        live = next(iter(self._waiting["interactive"]), None) if interactive else None
        rest = next(iter(self._waiting["batch"]), None) if batch else None
        return live if live is not None and (rest is None or self._in_a_row < _IN_A_ROW) else rest

    def took(self, utterance: Utterance) -> None:
        """Records that an utterance had its turn."""
        self._in_a_row = self._in_a_row + 1 if utterance.urgency == "interactive" else 0


class InFlight:
    """What lanes, conditioning and callers share. Attributes are read and changed with ``lock`` held."""

    def __init__(self, limits: SchedulerLimits, chunk: int) -> None:
        """Begins without an utterance.

        Args:
            limits: how many may wait.
            chunk: steps of a chunk.
        """
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Notified when a thread may find something to do: work, room in the queue or in a sink, or the end."""
        self.utterances: dict[Utterance, None] = {}
        """All that have not ended."""
        self.fresh = UtteranceQueue()
        """Not conditioned."""
        self.conditioning: dict[Utterance, None] = {}
        """Being conditioned."""
        self.ready = UtteranceQueue()
        """Conditioned, with a stream that has had no slot."""
        self.conditioning_bytes = 0
        self.counters = Counters()
        self.broken: ExecutorError | None = None
        """Why the executor was given up."""
        self.draining = False
        self.closed = False
        self._limits = limits
        self._chunk = chunk
        self._dated: dict[Utterance, None] = {}  # with a deadline
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that made it: its threads, and so its lock, are not here."""
        return os.getpid() != self._process

    @property
    def waiting(self) -> int:
        """Utterances that wait for a slot."""
        return len(self.fresh) + len(self.conditioning) + len(self.ready)

    def check_open(self) -> None:
        """Refuses work; called with or without the lock, which after a fork may be held for ever.

        Raises:
            ExecutorError: the executor was given up.
            ClosedError: it is closed, or is draining.
            VocoderError: it was made in another process.
        """
        self.check_process()
        if self.broken is not None:
            raise ExecutorError(str(self.broken))
        if self.closed:
            raise ClosedError("this vocoder is closed; load the model again")
        if self.draining:
            raise ClosedError("this vocoder is draining and takes no new requests")

    def check_process(self) -> None:
        """Raises in a process that was forked later.

        Raises:
            VocoderError: it is one.
        """
        if self.forked:
            raise VocoderError("this vocoder was loaded before the process was forked; load it in each process")

    @property
    def state(self) -> SchedulerState:
        """Whether work is accepted, and if not, why."""
        if self.closed:
            return "closed"
        if self.broken is not None:
            return "broken"
        return "draining" if self.draining else "ready"

    def drain(self, seconds: float | None) -> bool:
        """Refuses new work; returns whether all utterances ended in so many seconds."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()  # callers that wait for room in the queue
            return self.changed.wait_for(lambda: not self.utterances, seconds)

    def admit(self, utterance: Utterance, seconds: float | None, *, wait: bool) -> None:
        """Queues an utterance; called with the lock, which is released while it waits for room.

        Args:
            utterance: new.
            seconds: what its deadline was given as.
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
                        f"deadline: found {seconds:g} s, in which the queue had no room; allow more, or ask for less "
                        "at a time"
                    )
            self.changed.wait(left)
            self.check_open()
        self.utterances[utterance] = None
        if utterance.deadline is not None:
            self._dated[utterance] = None
        self.fresh.append(utterance)
        self.changed.notify_all()

    def pause(self, seconds: float | None = None) -> bool:
        """Waits until something may have changed; returns whether to go on. Called with the lock."""
        if not self.closed:
            self.changed.wait(seconds)
        return not self.closed

    def wake(self) -> None:
        """Has paused streams examined again: there is room in a sink, or conditioning has arrived."""
        with self.changed:
            self.changed.notify_all()

    def take_stream(self, utterance: Utterance) -> UtteranceStream:
        """The next stream of a ready utterance, which gets a slot now; called with the lock."""
        stream = utterance.waiting.popleft()
        utterance.started = True
        self.ready.took(utterance)
        if utterance.waiting:
            utterance.waiting[0].ready()  # its first rows are computed meanwhile
        else:
            self.ready.remove(utterance)
            self.changed.notify_all()  # the queue has room, and more can be conditioned
        return stream

    def delivered(self, utterance: Utterance, samples: int, *, complete: bool) -> None:
        """Records that a sink was given samples; called without the lock."""
        ticket = utterance.ticket
        if samples and ticket.first_samples is None:
            ticket.first_samples = time.monotonic()
            with self.lock:
                self.counters.first_samples.add(ticket.first_samples - ticket.submitted)
        if complete:
            conditioning = utterance.conditioning
            self.end(utterance, None if conditioning is None else conditioning.error)

    def drop_late(self) -> None:
        """Ends what cannot meet its deadline; called without the lock."""
        if not self._dated:
            return
        with self.lock:
            late = [utterance for utterance in self._dated if not self._can_be_ready(utterance)]
        for utterance in late:
            message = "deadline: the waveform cannot be whole in time; allow more, or ask for less at a time"
            self.end(utterance, DeadlineError(message))

    def end(self, utterance: Utterance, error: BaseException | None) -> None:
        """Ends an utterance, with a waveform or an error, unless it has ended; called without the lock."""
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
        except Exception as failure:  # the sink's; the ticket must end in any case
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
        """Whether a deadline can be met if every chunk took no longer than the fastest of the recent ones."""
        assert utterance.deadline is not None
        longest = max((fold.stop - fold.first for fold in utterance.folds), default=0)
        left = longest if not utterance.started else 0  # what folds have done is not known before they end
        if not utterance.folds and utterance.steps is not None:
            left = utterance.steps - utterance.produced
        # Of one that has a slot, a chunk may be in flight, and nearly done.
        chunks = max(0, math.ceil(left / self._chunk) - utterance.started)
        return time.monotonic() + chunks * self.counters.fastest_chunk <= utterance.deadline
