"""Threads that run the conditioner: on new mels, and on blocks of long mels before their streams read them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from wavernn_trt.runtime.errors import VocoderError, executor_error
from wavernn_trt.runtime.scheduling.in_flight import InFlight
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.utterance import URGENCIES, Urgency, Utterance

Work = Callable[[], None]
Failed = Callable[[Utterance, Exception], None]
"""Called with an utterance whose conditioning failed, and the error; without the lock."""

_SECONDS_A_FRAME = 0.01
"""Time per frame added to `SchedulerLimits.hang_seconds` while a mel is conditioned in one run."""


class ConditioningThread:
    """State of one conditioning thread; read and changed with the lock."""

    def __init__(self, *, blocks_only: bool) -> None:
        """Creates the state of an idle thread.

        Args:
            blocks_only: whether the thread conditions blocks only, so that streams need not wait for new long mels.
        """
        self.blocks_only = blocks_only
        self.utterance: Utterance | None = None
        """The utterance being conditioned; ``None`` while idle."""
        self.since = 0.0
        """Start of that run, on the clock of `time.monotonic`."""
        self.abandoned = False
        """Whether another thread has replaced this one; its result is ignored."""


class ConditioningThreads:
    """Selects the next mel or block to condition.

    Blocks that streams in slots wait for come first, then utterances that will soon get a slot. A row's bits do not
    depend on which thread runs the conditioner, or when.
    """

    def __init__(self, flight: InFlight, limits: SchedulerLimits, slots: int) -> None:
        """Starts no threads; each thread calls `loop`.

        Args:
            flight: the scheduler's utterances.
            limits: bound on the memory for conditioning.
            slots: number of utterances of each urgency that are conditioned ahead.
        """
        self.threads: list[ConditioningThread] = []
        """States of the threads that run or are being started."""
        self.failures = 0
        """Consecutive runs that failed or did not return; with the lock."""
        self._flight = flight
        self._limits = limits
        self._slots = slots
        self._blocks: deque[tuple[Utterance, Work]] = deque()

    def loop(self, thread: ConditioningThread, conditioned: Callable[[Utterance], None], failed: Failed) -> None:
        """Runs until the scheduler is closed or another thread replaces this one.

        Args:
            thread: this thread's state.
            conditioned: called with an utterance whose conditioning is complete; without the lock.
            failed: called with an utterance whose conditioning failed, and the error; without the lock.
        """
        while self._turn(thread, conditioned, failed):
            pass

    def condition_block(self, utterance: Utterance, work: Work) -> None:
        """Queues the conditioning of a block; callable from any thread, with or without the lock."""
        with self._flight.changed:
            self._blocks.append((utterance, work))
            self._flight.changed.notify_all()

    def abandon_hung(self, seconds: float) -> list[ConditioningThread]:
        """Abandons and returns the threads whose current run takes too long; called with the lock.

        Args:
            seconds: maximum time of a run, without the time per frame.
        """
        hung = []
        for thread in list(self.threads):
            utterance, busy = thread.utterance, time.monotonic() - thread.since
            if utterance is not None and busy > seconds + utterance.frames * _SECONDS_A_FRAME:
                thread.abandoned = True
                self.threads.remove(thread)
                self.failures += 1
                self._flight.conditioning.pop(utterance, None)
                hung.append(thread)
        return hung

    def _turn(self, thread: ConditioningThread, conditioned: Callable[[Utterance], None], failed: Failed) -> bool:
        """Runs the conditioner once, or waits; returns whether to continue. Keeps no reference to mel or rows."""
        self._flight.drop_late()
        with self._flight.lock:
            if self._flight.closed or thread.abandoned:
                return False
            if (chosen := self._next(thread)) is None:
                return self._flight.pause()
            utterance, block = chosen
            thread.utterance, thread.since = utterance, time.monotonic()
        failure: BaseException | None = None
        try:
            if block is None:
                self._condition(utterance)
            else:
                block()
        except BaseException as error:  # of any kind: utterances wait for this thread
            failure = error
        with self._flight.lock:
            if thread.abandoned:
                return False
            thread.utterance = None
            if failure is None:
                self.failures = 0
            elif not isinstance(failure, VocoderError):  # a VocoderError is caused by the mel
                self.failures += 1
            if failure is not None:
                self._flight.conditioning.pop(utterance, None)
        if failure is not None:
            failed(utterance, failure if isinstance(failure, VocoderError) else executor_error(failure))
        elif block is None:
            conditioned(utterance)
        else:
            self._flight.wake()
        return True

    def _next(self, thread: ConditioningThread) -> tuple[Utterance, Work | None] | None:
        """Returns what the thread conditions next: a block or a new utterance; ``None`` if there is nothing.

        The blocks of an utterance are conditioned one at a time, in order.
        """
        flight = self._flight
        self._blocks = deque(item for item in self._blocks if not item[0].ended)
        busy = {thread.utterance for thread in self.threads}
        for item in self._blocks:
            if item[0] not in busy:
                self._blocks.remove(item)
                return item
        chosen = None if thread.blocks_only else self._next_utterance()
        if chosen is None:
            return None
        flight.fresh.remove(chosen)
        flight.fresh.took(chosen)
        flight.conditioning[chosen] = None
        chosen.held_bytes = chosen.conditioning_bytes
        flight.conditioning_bytes += chosen.held_bytes
        return chosen, None

    def _next_utterance(self) -> Utterance | None:
        """Returns the next utterance to condition among those that will soon get a slot, if any."""
        flight = self._flight
        interactive, batch = (self._ahead(urgency) < self._slots for urgency in URGENCIES)
        utterance = flight.fresh.first(interactive=interactive, batch=batch)
        if utterance is None or utterance.urgency == "interactive" or not flight.conditioning_bytes:
            return utterance
        fits = flight.conditioning_bytes + utterance.conditioning_bytes <= self._limits.conditioning_bytes
        return utterance if fits else flight.fresh.first(interactive=interactive, batch=False)

    def _ahead(self, urgency: Urgency) -> int:
        """Returns the number of utterances of one urgency that are conditioned or being conditioned, without a slot."""
        return self._flight.ready.count(urgency) + sum(item.urgency == urgency for item in self._flight.conditioning)

    def _condition(self, utterance: Utterance) -> None:
        conditioning = utterance.condition()
        with self._flight.lock:
            if not utterance.ended:
                utterance.conditioning = conditioning
