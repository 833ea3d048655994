"""The scheduler: utterances that wait, the thread that conditions them, and the lanes that decode them.

One lock guards what waits and who sits where; nothing that computes, and nothing of a caller's, runs while it is held.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import Any

from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.decoding.chunk_loop import Stream
from wavernn_trt.runtime.decoding.sample_coding import SampleCoding
from wavernn_trt.runtime.errors import DeadlineError, ExecutorError, QueueFullError, VocoderError, executor_error
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.scheduling.conditioning_ahead import ConditioningAhead
from wavernn_trt.runtime.scheduling.lane_worker import LaneWorker
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.sinks import Sink
from wavernn_trt.runtime.scheduling.statistics import Counters, SchedulerStatistics
from wavernn_trt.runtime.scheduling.tasks import URGENCIES, Queue, Task, Urgency
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.scheduling.utterance import Utterance

logger = logging.getLogger(__name__)

_SPARE_SLOTS = 4
"""For interactive utterances, in each lane of an executor that leaves the number of slots open."""
_MOST_ATTEMPTS = 2
"""An utterance that was in two lanes that failed may be why."""
_FAILURES_IN_A_ROW = 3
"""Lanes that fail one after the other, without a chunk between, after which the executor is given up."""
_CONDITIONING_SECONDS_A_FRAME = 0.01
"""What a frame may add to `SchedulerLimits.hang_seconds` while a mel is conditioned, which is done in one go."""
_OPENING_TIMES = 10
"""How many times `SchedulerLimits.hang_seconds` a lane may take to open: its plan may have to be compiled yet."""
_JOIN_SECONDS = 5.0
"""How long to wait for threads at the end; one that hangs cannot be stopped."""


class Scheduler:
    """Speaks utterances with one executor; any thread may submit them."""

    def __init__(
        self,
        executor: Executor,
        windows: ConditioningWindows,
        coding: SampleCoding,
        batch: int,
        limits: SchedulerLimits,
    ) -> None:
        """Prepares; threads are begun with the first utterance.

        Args:
            executor: conditions and decodes.
            windows: cuts conditioning into chunks.
            coding: what samples mean.
            batch: streams of batch work decoded at a time, over all lanes; an executor with fixed slots takes as many
                as it has in each lane.
            limits: how much to take on.
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
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._tasks: dict[Task, None] = {}
        self._fresh = Queue()  # to be conditioned
        self._ready = Queue()  # conditioned, with a stream that has no slot
        self._dated: dict[Task, None] = {}
        self._conditioning: tuple[Task, float] | None = None
        self._conditioning_bytes = 0
        self._ahead = ConditioningAhead(self)
        self._lanes: list[LaneWorker] = []
        self._threads: list[threading.Thread] = []
        self._counters = Counters()
        self._failures = 0
        self._broken: ExecutorError | None = None
        self._closed = False

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """See `Orders`."""
        return self._lock

    def submit(
        self,
        utterance: Utterance,
        sink: Sink,
        *,
        urgency: Urgency = "batch",
        deadline: float | None = None,
        wait: bool = True,
        progress: Callable[[int], None] | None = None,
        owner: Any = None,
    ) -> Ticket:
        """Takes an utterance on.

        Args:
            utterance: what to speak.
            sink: takes the waveform.
            urgency: ``interactive`` utterances have slots, and the executor, before the others.
            deadline: seconds from now; an utterance that cannot be ready by then is dropped.
            wait: whether to wait while the queue is full.
            progress: is told of steps as they are decoded, a fold's warm-up included; must be quick.
            owner: kept alive until the utterance is done.

        Raises:
            QueueFullError: the queue is full, and ``wait`` is false.
            DeadlineError: the queue had no room before the deadline.
            ExecutorError: the executor was given up.
            VocoderError: the scheduler is closed, or was made in another process.
        """
        self._check_open()  # before the lock too, which after a fork may be another process's
        due = None if deadline is None else time.monotonic() + deadline
        task = Task(Ticket(owner), utterance, sink, urgency, due, progress)
        with self._changed:
            self._check_open()
            while self._waiting() >= self._limits.queue:
                if not wait:
                    raise QueueFullError(
                        f"queue: found {self._waiting()} utterances waiting, expected fewer than {self._limits.queue}; "
                        "wait for some, submit with wait=True, or allow more (SchedulerLimits.queue)"
                    )
                left = None if due is None else min(due - time.monotonic(), threading.TIMEOUT_MAX)
                if left is not None and left <= 0:
                    self._counters.dropped += 1
                    raise DeadlineError(
                        f"deadline: found {deadline:g} s, in which the queue had no room; allow more, or ask for less "
                        "at a time"
                    )
                self._changed.wait(left)
                self._check_open()
            self._tasks[task] = None
            if due is not None:
                self._dated[task] = None
            self._fresh.append(task)
            if not self._threads:
                self._start(self._condition, "conditioning")
                self._start(self._watch, "watchdog")
            self._changed.notify_all()
        # By weak references: whoever keeps the ticket does not keep the mel.
        me, it = weakref.ref(self), weakref.ref(task)
        task.ticket.add_done_callback(lambda ticket: _give_up(me(), it()) if ticket.cancelled() else None)
        return task.ticket

    def _waiting(self) -> int:
        return len(self._fresh) + (self._conditioning is not None) + len(self._ready)

    def wake(self) -> None:
        """Has paused streams looked at again: there is room in a sink, or conditioning has arrived."""
        with self._changed:
            self._changed.notify_all()

    def statistics(self) -> SchedulerStatistics:
        """What it looks like now."""
        with self._lock:
            counters = self._counters
            seated = {seat.task for lane in self._lanes for seat in lane.seats.values()}
            return SchedulerStatistics(
                lanes=len(self._lanes),
                slots=self.slots,
                busy=sum(len(lane.seats) for lane in self._lanes),
                queue=self._waiting(),
                under_way=len(seated),
                conditioning_bytes=self._conditioning_bytes,
                chunks=counters.chunks,
                decoding_seconds=counters.decoding_seconds,
                occupancy=counters.occupancy,
                samples=counters.samples,
                samples_per_second=counters.samples_per_second(),
                done=counters.done,
                failed=counters.failed,
                cancelled=counters.cancelled,
                dropped=counters.dropped,
                restarted=counters.restarted,
                lost_lanes=counters.lost_lanes,
                first_samples=counters.first_samples.percentiles(),
                latency=counters.latency.percentiles(),
            )

    def close(self) -> None:
        """Gives up what is under way and ends the threads; may be called again."""
        if os.getpid() != self._process:
            return  # after a fork: the threads are the other process's, and so may the lock be
        with self._changed:
            self._closed = True
            tasks, threads = list(self._tasks), list(self._threads)
            self._changed.notify_all()
        for task in tasks:
            task.ticket.cancel()
        until = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    logger.warning("%s does not end; its executor hangs", thread.name)
        with self._lock:
            for lane in self._lanes:
                lane.abandoned = True
            self._lanes.clear()  # they know this scheduler: memory would wait for the collector of cycles

    # What lanes ask and tell: see `Orders`.

    def drop_late(self) -> None:
        """See `Orders`."""
        if not self._dated:
            return
        with self._lock:
            late = [task for task in self._dated if not self._can_be_ready(task)]
        for task in late:
            message = "deadline: the waveform cannot be whole in time; allow more, or ask for less at a time"
            self._end(task, DeadlineError(message))

    def pick(self, lane: LaneWorker, *, batch: bool) -> tuple[Task, int, Stream] | None:
        """See `Orders`."""
        task = self._ready.first(batch=batch)
        if task is None:
            return None
        others = (other.seated(task.urgency) for other in self._lanes if other.open and other.has_room)
        if lane.seated(task.urgency) > min(others, default=math.inf):
            return None  # another lane has less to do
        fold, stream = task.waiting.popleft()
        task.started = True
        self._ready.took(task)
        if task.waiting:
            _, following = task.waiting[0]
            following.conditioning.ready(following.start)  # its first rows are computed meanwhile
        else:
            self._ready.remove(task)
            self._changed.notify_all()  # the queue has room, and more can be conditioned
        return task, fold, stream

    def rest(self, seconds: float | None) -> bool:
        """See `Orders`."""
        if not self._closed:
            self._changed.wait(seconds)
        return not self._closed

    def submitting(self, rows: int, slots: int) -> None:
        """See `Orders`."""
        if self._waiting():
            self._counters.loaded_rows += rows
            self._counters.loaded_slots += slots

    def decoded(self, seconds: float, samples: int) -> None:
        """See `Orders`."""
        self._failures = 0
        self._counters.decoded(seconds, samples)

    def delivered(self, task: Task, samples: int, *, complete: bool) -> None:
        """See `Orders`."""
        if samples and task.ticket.first_samples is None:
            task.ticket.first_samples = time.monotonic()
            with self._lock:
                self._counters.first_samples.add(task.ticket.first_samples - task.ticket.submitted)
        if complete:
            conditioning = task.conditioning
            self._end(task, None if conditioning is None else conditioning.error)

    def spoiled(self, task: Task, error: BaseException) -> None:
        """See `Orders`."""
        self._end(task, error)

    def lost(self, lane: LaneWorker, error: BaseException) -> None:
        """See `Orders`."""
        with self._changed:
            if lane.abandoned:
                return
            lane.abandoned = True
            self._lanes.remove(lane)
            self._counters.lost_lanes += 1
            struck = list(dict.fromkeys(seat.task for seat in lane.seats.values() if not seat.vacant))
            for task in struck:
                self._ready.remove(task)
                task.attempts += 1  # its other seats are vacant now: a lane that is lost besides does not strike it
            self._failures += 1
        logger.warning("backend %s: a lane is lost, with %d utterances: %s", self._executor.name, len(struck), error)
        self._give_up_executor(error)
        for task in struck:
            self._begin_again(task, error)
        with self._lock:
            self._open_lanes()

    # The conditioning thread, and the watchdog's.

    def _condition(self) -> None:
        while self._condition_next():
            pass

    def _condition_next(self) -> bool:
        """Conditions an utterance, or waits for one; returns whether to go on. Keeps neither mel nor rows."""
        self.drop_late()
        with self._changed:
            if self._closed:
                return False
            task = self._next_to_condition()
            if task is None:
                self._changed.wait()
                return True
            self._fresh.remove(task)
            self._fresh.took(task)
            self._conditioning = mine = (task, time.monotonic())
            self._conditioning_bytes += task.utterance.conditioning_bytes
        try:
            conditioning = task.utterance.condition()
            failure: BaseException | None = None
        except BaseException as error:  # whatever it is, others wait for this thread
            failure = error
        with self._changed:
            if self._conditioning is not mine:
                return False  # given up by the watchdog; another thread does this now
            if failure is None and task in self._tasks:
                task.conditioning = conditioning
                self._conditioning = task, math.inf  # it still counts as waiting, but can hang no more
            else:
                self._conditioning = None
                self._conditioning_bytes -= task.utterance.conditioning_bytes
        if failure is not None:
            self._end(task, failure if isinstance(failure, VocoderError) else executor_error(failure))
        else:
            self._make_ready(task)
        return True

    def _next_to_condition(self) -> Task | None:
        """Whose turn it is, among those that will soon have a slot."""
        interactive, batch = (self._ready.waiting(urgency) < self.slots for urgency in URGENCIES)
        task = self._fresh.first(interactive=interactive, batch=batch)
        if task is None or task.urgency == "interactive" or not self._conditioning_bytes:
            return task
        fits = self._conditioning_bytes + task.utterance.conditioning_bytes <= self._limits.conditioning_bytes
        return task if fits else self._fresh.first(interactive=interactive, batch=False)

    def _make_ready(self, task: Task, *, first: bool = False) -> None:
        with self._lock:
            conditioning = task.conditioning
        failure = None
        if conditioning is not None:  # else it has ended meanwhile
            try:
                task.begin(conditioning, self._coding, lambda work: self._condition_ahead(task, work))
            except Exception as error:
                failure = error
        with self._changed:
            if self._conditioning is not None and self._conditioning[0] is task:
                self._conditioning = None
            if task in self._tasks and failure is None:
                (self._ready.prepend if first else self._ready.append)(task)
                self._open_lanes()
            self._changed.notify_all()
        if failure is not None:
            self._end(task, failure)

    def _condition_ahead(self, task: Task, work: Callable[[], None]) -> None:
        with self._lock:
            if not self._ahead.started:
                self._ahead.started = True
                self._start(self._ahead.run, "conditioning ahead")
            self._ahead.want(task, work)

    def _open_lanes(self) -> None:
        streams = sum(len(lane.seats) for lane in self._lanes) + sum(len(task.waiting) for task in self._ready)
        while len(self._lanes) < min(self._most_lanes, streams) and self._broken is None and not self._closed:
            lane = LaneWorker(self._executor, self._windows, self, slots=self._slots, batch_slots=self._batch_slots)
            self._lanes.append(lane)
            self._start(lane.run, "lane")

    def _watch(self) -> None:
        most = self._limits.hang_seconds
        while True:
            with self._changed:
                if self._closed:
                    return
                self._changed.wait(min(1.0, most / 4) if self._tasks else None)
                now = time.monotonic()
                hung = [
                    lane
                    for lane in self._lanes
                    if lane.busy_since is not None
                    and now - lane.busy_since > (most if lane.open else _OPENING_TIMES * most)
                ]
                stuck = self._conditioning
                if stuck is not None:
                    allowed = most + stuck[0].utterance.frames * _CONDITIONING_SECONDS_A_FRAME
                    stuck = stuck if now - stuck[1] > allowed else None
                if stuck is not None:
                    self._conditioning = None
                    self._conditioning_bytes -= stuck[0].utterance.conditioning_bytes
                    self._failures += 1
                    self._start(self._condition, "conditioning")
                late = self._ahead.late(now - most)
                if late is not None:
                    self._failures += 1
                    self._ahead = self._ahead.successor()
                    self._start(self._ahead.run, "conditioning ahead")
            self.drop_late()
            error = ExecutorError(f"backend {self._executor.name} does not answer; it had {most:g} s")
            for lane in hung:
                self.lost(lane, error)
            for task in (stuck[0] if stuck is not None else None, late):
                if task is not None:
                    self._give_up_executor(error)
                    self._end(task, error)

    # How utterances end.

    def _begin_again(self, task: Task, error: BaseException) -> None:
        if task.attempts <= _MOST_ATTEMPTS and self._broken is None:
            with self._lock:
                self._counters.restarted += 1
            self._make_ready(task, first=True)
        else:
            self._end(task, executor_error(error))

    def _give_up_executor(self, error: BaseException) -> None:
        with self._lock:
            if self._failures < _FAILURES_IN_A_ROW or self._broken is not None:
                return
            self._broken = ExecutorError(
                f"backend {self._executor.name} failed {self._failures} times in a row and was given up ({error}); "
                "load the model again, or with another backend"
            )
            tasks = list(self._tasks)
        logger.error("%s", self._broken)
        for task in tasks:
            self._end(task, executor_error(error))

    def _end(self, task: Task, error: BaseException | None) -> None:
        """Ends an utterance, once, whoever is first."""
        with self._changed:
            if task not in self._tasks:
                return
            del self._tasks[task]
            self._dated.pop(task, None)
            self._fresh.remove(task)
            self._ready.remove(task)
            if task.conditioning is not None:
                self._conditioning_bytes -= task.utterance.conditioning_bytes
                task.conditioning = None
            task.ended = True
            task.waiting.clear()
            self._changed.notify_all()
        waveform = None
        try:
            task.finish(error)
            waveform = task.waveform() if error is None else None
        except Exception as failure:  # the sink's; whoever waits for the ticket must not wait for ever
            error = error or failure
        with self._lock:
            self._count(error, time.monotonic() - task.ticket.submitted)
        if not task.ticket.set_running_or_notify_cancel():
            return
        if waveform is not None:
            task.ticket.set_result(waveform)
        else:
            task.ticket.set_exception(error)

    def _count(self, error: BaseException | None, latency: float) -> None:
        if error is None:
            self._counters.done += 1
            self._counters.latency.add(latency)
        elif isinstance(error, CancelledError):
            self._counters.cancelled += 1
        elif isinstance(error, DeadlineError):
            self._counters.dropped += 1
        else:
            self._counters.failed += 1

    def _can_be_ready(self, task: Task) -> bool:
        """Whether a deadline can still be met, if every chunk took no longer than the fastest of late."""
        assert task.deadline is not None
        longest = max((fold.stop - fold.first for fold in task.utterance.folds), default=0)
        left = longest if not task.started else 0  # what folds have done is not known before they end
        if not task.utterance.folds and task.utterance.steps is not None:
            left = task.utterance.steps - task.produced
        # Of one that has a slot, a chunk may be under way, and nearly done.
        chunks = max(0, math.ceil(left / self._windows.steps) - task.started)
        return time.monotonic() + chunks * self._counters.fastest_chunk <= task.deadline

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise VocoderError("this vocoder was loaded before the process was forked; load it in each process")
        if self._broken is not None:
            raise ExecutorError(str(self._broken))
        if self._closed:
            raise VocoderError("this vocoder is closed; load the model again")

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=f"wavernn-trt {name}", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        thread.start()
        self._threads.append(thread)


def _give_up(scheduler: Scheduler | None, task: Task | None) -> None:
    if scheduler is not None and task is not None:
        scheduler._end(task, CancelledError())
