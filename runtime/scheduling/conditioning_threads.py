"""The threads that run the conditioner: over new mels, and over blocks of long mels before their streams read them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wavernn_trt.runtime.errors import VocoderError, executor_error
from wavernn_trt.runtime.scheduling.in_flight import InFlight
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.utterance import URGENCIES, Urgency, Utterance

Work = Callable[[], None]
Failed = Callable[[Utterance, Exception], None]
"""Called with an utterance that could not be conditioned, and why; without the lock."""

_SECONDS_A_FRAME = 0.01
"""What a frame may add to `SchedulerLimits.hang_seconds` while a mel is conditioned in one run."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the conditioner."""

    utterance: Utterance
    work: Work
    first: bool
    """Whether it is the utterance's first; the others are of blocks."""
    since: float
    """When it began, on the clock of `time.monotonic`."""

    def hangs(self, seconds: float) -> bool:
        """Whether it takes longer than it may."""
        return time.monotonic() - self.since > seconds + self.utterance.frames * _SECONDS_A_FRAME


class ConditioningThread:
    """What one of the threads is doing; read and changed with the lock."""

    def __init__(self) -> None:
        """Begins idle."""
        self.run: Run | None = None
        self.abandoned = False
        """Whether another thread has taken its place; what it returns with is ignored."""


class ConditioningThreads:
    """Chooses what is conditioned next.

    Blocks that streams in slots wait for come first, then utterances that will soon have a slot. Which thread runs the
    conditioner, and when, has no influence on a row's bits.
    """

    def __init__(self, flight: InFlight, limits: SchedulerLimits, slots: int) -> None:
        """Prepares; a thread calls `loop`.

        Args:
            flight: the scheduler's utterances.
            limits: how much conditioning may be held.
            slots: so many utterances of each urgency are conditioned ahead.
        """
        self.threads: list[ConditioningThread] = []
        """Those that run, or are about to."""
        self.failures = 0
        """Runs that failed or did not return, one after the other; with the lock."""
        self._flight = flight
        self._limits = limits
        self._slots = slots
        self._blocks: deque[tuple[Utterance, Work]] = deque()

    def loop(self, thread: ConditioningThread, conditioned: Callable[[Utterance], None], failed: Failed) -> None:
        """Works until the scheduler is closed, or another thread takes this one's place.

        Args:
            thread: this thread's state.
            conditioned: called with an utterance whose conditioning is there; without the lock.
            failed: called with one whose is not.
        """
        while self._turn(thread, conditioned, failed):
            pass

    def condition_block(self, utterance: Utterance, work: Work) -> None:
        """Queues the conditioning of a block; any thread calls it, with or without the lock."""
        with self._flight.changed:
            self._blocks.append((utterance, work))
            self._flight.changed.notify_all()

    def replace_hung(self, seconds: float) -> list[Utterance]:
        """Abandons threads whose run takes too long; called with the lock.

        Args:
            seconds: what a run may take, besides what its frames add.

        Returns:
            The utterances whose conditioning does not return.
        """
        hung = []
        for thread in self.threads:
            if thread.run is not None and thread.run.hangs(seconds):
                thread.abandoned = True
                self.failures += 1
                self._flight.conditioning.pop(thread.run.utterance, None)
                hung.append(thread.run.utterance)
        self.threads = [thread for thread in self.threads if not thread.abandoned]
        return hung

    def _turn(self, thread: ConditioningThread, conditioned: Callable[[Utterance], None], failed: Failed) -> bool:
        """Runs the conditioner once, or waits; returns whether to go on. Keeps neither mel nor rows."""
        self._flight.drop_late()
        with self._flight.lock:
            if self._flight.closed or thread.abandoned:
                return False
            run = thread.run = self._next()
            if run is None:
                return self._flight.pause()
        failure: BaseException | None = None
        try:
            run.work()
        except BaseException as error:  # whatever it is, utterances wait for this thread
            failure = error
        with self._flight.lock:
            if thread.abandoned:
                return False
            thread.run = None
            if failure is None:
                self.failures = 0
            elif not isinstance(failure, VocoderError):  # else it is the mel's fault
                self.failures += 1
        if failure is not None:
            with self._flight.lock:
                self._flight.conditioning.pop(run.utterance, None)
            failed(run.utterance, failure if isinstance(failure, VocoderError) else executor_error(failure))
        elif run.first:
            conditioned(run.utterance)
        else:
            self._flight.wake()
        return True

    def _next(self) -> Run | None:
        """What to condition now, if anything."""
        flight = self._flight
        while self._blocks:
            utterance, work = self._blocks.popleft()
            if not utterance.ended:
                return Run(utterance, work, first=False, since=time.monotonic())
        next_one = self._next_utterance()
        if next_one is None:
            return None
        flight.fresh.remove(next_one)
        flight.fresh.took(next_one)
        flight.conditioning[next_one] = None
        next_one.held_bytes = next_one.conditioning_bytes
        flight.conditioning_bytes += next_one.held_bytes
        return Run(next_one, partial(self._condition, next_one), first=True, since=time.monotonic())

    def _next_utterance(self) -> Utterance | None:
        """The utterance whose turn it is, among those that will soon have a slot."""
        flight = self._flight
        interactive, batch = (self._ahead(urgency) < self._slots for urgency in URGENCIES)
        utterance = flight.fresh.first(interactive=interactive, batch=batch)
        if utterance is None or utterance.urgency == "interactive" or not flight.conditioning_bytes:
            return utterance
        fits = flight.conditioning_bytes + utterance.conditioning_bytes <= self._limits.conditioning_bytes
        return utterance if fits else flight.fresh.first(interactive=interactive, batch=False)

    def _ahead(self, urgency: Urgency) -> int:
        """Utterances of one urgency that are conditioned, or being conditioned, and have no slot."""
        return self._flight.ready.count(urgency) + sum(one.urgency == urgency for one in self._flight.conditioning)

    def _condition(self, utterance: Utterance) -> None:
        conditioning = utterance.condition()
        with self._flight.lock:
            if not utterance.ended:
                utterance.conditioning = conditioning
