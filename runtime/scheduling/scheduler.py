"""The scheduler: starts the threads that condition and decode utterances, and handles failures.

`InFlight` holds the utterances and the lock, `ConditioningThreads` run the conditioner, a `LaneWorker` decodes in each
lane, and a watchdog abandons executor calls that do not return.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, FloatArray
from wavernn_trt.runtime.errors import ExecutorError, executor_error
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.scheduling.conditioning_threads import ConditioningThread, ConditioningThreads
from wavernn_trt.runtime.scheduling.in_flight import InFlight, SchedulerState
from wavernn_trt.runtime.scheduling.lane_worker import LaneWorker
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.sinks import Sink
from wavernn_trt.runtime.scheduling.statistics import SchedulerStatistics
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.scheduling.utterance import Urgency, Utterance

logger = logging.getLogger(__name__)

_SPARE_SLOTS = 4
"""Slots for interactive utterances in each lane, if the executor leaves the number of slots open."""
_MOST_ATTEMPTS = 2
"""Maximum attempts of an utterance whose lanes fail: the utterance itself may be the cause."""
_FAILURES_IN_A_ROW = 3
"""Consecutive failed lanes, or failed runs of the conditioner, after which the executor is no longer used."""
_OPENING_TIMES = 10
"""Timeout for opening a lane, in multiples of `SchedulerLimits.hang_seconds`: its plan may have to be compiled."""
_MOST_CONDITIONING_THREADS = 4
"""Maximum for new mels with several lanes: each holds a mel's activations. Executors with fewer lanes than cores state
their own number. One extra thread runs blocks."""
_JOIN_SECONDS = 5.0
"""Total time that `close` waits for threads; a hung thread cannot be stopped."""


class Scheduler:
    """Decodes utterances with one executor; `submit` may be called from any thread."""

    def __init__(
        self,
        executor: Executor,
        windows: ConditioningWindows,
        coding: SampleCoding,
        batch: int,
        limits: SchedulerLimits,
    ) -> None:
        """Starts no threads; they start with the first utterance.

        Args:
            executor: runs the conditioner and the decoder.
            windows: cuts conditioning into chunks.
            coding: conversion of drawn samples to amplitudes.
            batch: streams of batch work decoded at a time, over all lanes; an executor with fixed slots uses all its
                slots in each lane.
            limits: bounds of queue, memory and lanes.
        """
        self._executor = executor
        self._windows = windows
        self._coding = coding
        self._limits = limits
        self._most_lanes = limits.lanes or min(executor.lanes, batch)
        spare = limits.interactive_slots
        if executor.slots is None:
            self._batch_slots = math.ceil(batch / self._most_lanes)
            self._slots = self._batch_slots + (_SPARE_SLOTS if spare is None else spare)
        else:
            self._slots = executor.slots
            self._batch_slots = max(1, executor.slots - (spare or 0))
        self.slots = self._batch_slots * self._most_lanes
        """Streams of batch work that are decoded together, over all lanes."""
        self._flight = InFlight(limits, windows.steps)
        self._conditioning = ConditioningThreads(self._flight, limits, self.slots)
        self._lanes: list[LaneWorker] = []
        self._threads: list[threading.Thread] = []

    def submit(
        self,
        utterance: Utterance,
        sink: Sink,
        *,
        urgency: Urgency = "batch",
        deadline: float | None = None,
        wait: bool = True,
        progress: Callable[[int], None] | None = None,
        raw: bool = False,
        owner: Any = None,
    ) -> Ticket:
        """Queues a new utterance; arguments and errors are those of `Vocoder.submit`.

        With ``raw``, the sink receives samples as drawn (labels, or values for mixtures), unchecked. ``owner`` is kept
        alive until the utterance is done.
        """
        flight = self._flight
        flight.check_open()  # also before taking the lock, which a fork may have left locked
        utterance.ticket = Ticket(owner)
        utterance.sink, utterance.urgency, utterance.progress = sink, urgency, progress
        utterance.coding = None if raw else self._coding
        utterance.deadline = None if deadline is None else time.monotonic() + deadline
        with flight.lock:
            flight.admit(utterance, deadline, wait=wait)
            if not self._threads:
                self._start_conditioning(blocks_only=True)
                for _ in range(max(self._executor.conditioners, min(self._most_lanes, _MOST_CONDITIONING_THREADS))):
                    self._start_conditioning(blocks_only=False)
                self._start(self._watch, "watchdog")
        # Weak references: a ticket that the caller keeps does not keep the mel alive.
        cancel = partial(_cancel, weakref.ref(flight), weakref.ref(utterance))
        utterance.ticket.add_done_callback(cancel)
        return utterance.ticket

    def wake(self) -> None:
        """Has paused streams checked again, after room in a sink or new conditioning."""
        self._flight.wake()

    def statistics(self) -> SchedulerStatistics:
        """Returns the current statistics."""
        with self._flight.lock:
            return self._flight.counters.statistics(
                lanes=len(self._lanes),
                slots=self.slots,
                busy=sum(len(lane.streams) for lane in self._lanes),
                queue=self._flight.waiting,
                under_way=len({stream.utterance for lane in self._lanes for stream in lane.streams}),
                conditioning_bytes=self._flight.conditioning_bytes,
            )

    @property
    def state(self) -> SchedulerState:
        return self._flight.state

    def check_process(self) -> None:
        self._flight.check_process()

    def drain(self, seconds: float | None) -> bool:
        return self._flight.drain(seconds)

    def close(self) -> None:
        """Cancels all utterances and ends the threads; may be called more than once."""
        if self._flight.forked:
            return  # the threads are in the parent process, and the lock may be locked for ever
        with self._flight.changed:
            self._flight.closed = True
            utterances, threads = list(self._flight.utterances), list(self._threads)
            self._flight.changed.notify_all()
        for utterance in utterances:
            utterance.ticket.cancel()
        until = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    logger.warning("%s does not end; its executor hangs", thread.name)
        with self._flight.lock:
            for lane in self._lanes:
                lane.abandoned = True
            self._lanes.clear()  # breaks a reference cycle: frees the executor's memory without the garbage collector

    def _start(self, work: Callable[[], None], name: str) -> None:
        started = threading.Thread(target=work, name=f"wavernn-trt {name}", daemon=True)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        started.start()
        self._threads.append(started)

    def _start_conditioning(self, *, blocks_only: bool) -> None:
        thread = ConditioningThread(blocks_only=blocks_only)
        self._conditioning.threads.append(thread)
        work = partial(self._conditioning.loop, thread, self._begin, self._fail_conditioning)
        self._start(work, "conditioning")

    def _begin(self, utterance: Utterance, *, first: bool = False) -> None:
        """Begins an attempt of a conditioned utterance and queues it for slots, before all others if ``first``."""
        flight = self._flight
        with flight.lock:
            conditioning = utterance.conditioning
        failure = None
        if conditioning is not None:  # else the utterance has ended meanwhile
            try:
                utterance.begin(conditioning, partial(self._conditioning.condition_block, utterance))
            except Exception as error:
                failure = error
        with flight.changed:
            flight.conditioning.pop(utterance, None)
            if not utterance.ended and failure is None:
                (flight.ready.prepend if first else flight.ready.append)(utterance)
                self._open_lanes()
            flight.changed.notify_all()
        if failure is not None:
            flight.end(utterance, failure)

    def _open_lanes(self) -> None:
        """Opens lanes until there are as many as streams, up to the bound; called with the lock."""
        flight = self._flight
        streams = sum(len(lane.streams) for lane in self._lanes) + sum(len(item.waiting) for item in flight.ready)
        while len(self._lanes) < min(self._most_lanes, streams) and flight.broken is None and not flight.closed:
            slots = {"slots": self._slots, "batch_slots": self._batch_slots}
            lane = LaneWorker(self._executor, self._windows, flight, self._lanes, **slots)
            self._lanes.append(lane)
            self._start(partial(lane.run, self._lose), "lane")

    # Failures.

    def _watch(self) -> None:
        """Abandons executor calls that do not return; the body of the watchdog's thread."""
        while self._watch_once():
            pass

    def _watch_once(self) -> bool:
        flight, timeout = self._flight, self._limits.hang_seconds
        with flight.lock:
            if not flight.pause(min(1.0, timeout / 4) if flight.utterances else None):
                return False
            now = time.monotonic()
            lanes = [
                lane
                for lane in self._lanes
                if lane.busy_since is not None
                and now - lane.busy_since > (timeout if lane.loop is not None else _OPENING_TIMES * timeout)
            ]
            hung = self._conditioning.abandon_hung(timeout)
            for thread in hung:
                self._start_conditioning(blocks_only=thread.blocks_only)
        flight.drop_late()
        error = ExecutorError(f"backend {self._executor.name} does not answer; it had {timeout:g} s")
        for lane in lanes:
            self._lose(lane, error)
        for thread in hung:
            if thread.utterance is not None:
                self._fail_conditioning(thread.utterance, error)
        return True

    def _fail_conditioning(self, utterance: Utterance, error: Exception) -> None:
        """Ends an utterance whose conditioning failed or hangs."""
        with self._flight.lock:
            given_up = self._give_up_if_failing(self._conditioning.failures, error)
        self._flight.end(utterance, error)
        self._end_all(given_up, error)

    def _lose(self, lane: LaneWorker, error: BaseException) -> None:
        """Abandons a lane that failed or hangs; its utterances are restarted, up to `_MOST_ATTEMPTS`."""
        flight = self._flight
        with flight.changed:
            if lane.abandoned:
                return
            lane.abandoned = True
            self._lanes.remove(lane)
            flight.counters.totals.lost_lanes += 1
            flight.counters.lane_failures += 1
            affected = list(dict.fromkeys(stream.utterance for stream in lane.streams if not stream.stale))
            for utterance in affected:
                flight.ready.remove(utterance)
                utterance.attempts += 1  # its other streams become stale: another lost lane does not count again
            given_up = self._give_up_if_failing(flight.counters.lane_failures, error)
        logger.warning("backend %s: a lane is lost, with %d utterances: %s", self._executor.name, len(affected), error)
        self._end_all(given_up, error)
        for utterance in affected:
            if utterance.attempts <= _MOST_ATTEMPTS and flight.broken is None:
                with flight.lock:
                    flight.counters.totals.restarted += 1
                self._begin(utterance, first=True)
            else:
                flight.end(utterance, executor_error(error))
        with flight.lock:
            self._open_lanes()

    def _give_up_if_failing(self, failures: int, error: BaseException) -> list[Utterance]:
        """Marks the executor as broken after `_FAILURES_IN_A_ROW` failures; called with the lock.

        Returns:
            The utterances to end then; empty otherwise.
        """
        if failures < _FAILURES_IN_A_ROW or self._flight.broken is not None:
            return []
        self._flight.broken = ExecutorError(
            f"backend {self._executor.name} failed {failures} times in a row and was given up ({error}); "
            "load the model again, or with another backend"
        )
        return list(self._flight.utterances)

    def _end_all(self, utterances: list[Utterance], error: BaseException) -> None:
        """Ends the utterances that cannot be decoded because the executor is broken."""
        if utterances:
            logger.error("%s", self._flight.broken)
        for utterance in utterances:
            self._flight.end(utterance, executor_error(error))


def _cancel(flight: weakref.ref[InFlight], utterance: weakref.ref[Utterance], ticket: Future[FloatArray]) -> None:
    if ticket.cancelled() and (cancelled := utterance()) is not None and (in_flight := flight()) is not None:
        in_flight.end(cancelled, CancelledError())
