"""Sink of a stream, and the links through which producer and consumer wait for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import DeadlineError, ExecutorError, QueueFullError, VocoderError
from wavernn_trt.runtime.streaming.pcm import Int16Encoder
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer

_POLL_SECONDS = 0.001
"""Interval between polls of shared memory, for which Python has no condition variable: a twentieth of a frame."""
_POLLS_A_LOOK = 100
"""Number of polls between checks whether the other process still runs."""
_CODED: tuple[type[Exception], ...] = (VocoderError, QueueFullError, DeadlineError, ExecutorError, CancelledError)
"""Error types by their code in the ring, from 1."""
_OTHER = 255
"""Code of all other error types."""


class LocalLink:
    """Link between a producer and a consumer that are threads of this process."""

    def __init__(self, ring: RingBuffer, chunk: int | None = None) -> None:
        """Links producer and consumer of a ring.

        Args:
            ring: the ring buffer between them.
            chunk: number of samples per write; ``None`` if it is not known.
        """
        self._ring = ring
        self._chunk = chunk
        self._condition = threading.Condition()
        self._waiting = False
        self._short = False
        self._left = False
        self._error: BaseException | None = None
        self._on_close: Callable[[], object] | None = None
        self._on_room: Callable[[], object] | None = None

    def connect(self, on_close: Callable[[], object] | None, on_room: Callable[[], object] | None) -> None:
        with self._condition:
            self._on_room = on_room
            self._on_close, call = (None, on_close) if self._left else (on_close, None)
        if call is not None:
            call()
        self.freed()

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until ``ready`` is true after a write or the end; returns whether it is. Called by the consumer.

        No wake-up is lost: the consumer sets the flag `_waiting` and then reads the ring; the producer writes to the
        ring and then reads the flag, in `wake`. In any order of these four, at least one side sees the other's change.
        If the producer sees the flag, it gets the lock only once the consumer sleeps or has checked ``ready`` again.
        """
        with self._condition:
            self._waiting = True
            try:
                return self._condition.wait_for(ready, timeout)
            finally:
                self._waiting = False

    def wake(self) -> None:
        """Wakes a waiting consumer; called by the producer after a write or its end."""
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    def room(self) -> int:
        """Returns the samples that can be written; if below one chunk, a later `freed` calls ``on_room``."""
        ring, wanted = self._ring, self._chunk or self._ring.capacity
        room = ring.available_write
        if room < wanted:
            self._short = True
            room = ring.available_write  # the consumer may have read before the flag was set
        return room

    def freed(self) -> None:
        """Calls ``on_room`` if the producer had too little room; called by the consumer after a read."""
        if self._short and self._on_room is not None and self._ring.available_write >= (self._chunk or 1):
            # The flag is cleared before the call: a producer without room sets it again, or runs after the call.
            self._short = False
            self._on_room()

    def finish(self, error: BaseException | None) -> None:
        """Ends the stream; called by the producer."""
        self._error = error
        self._ring.close(*_coded(error))
        self.wake()

    def error(self) -> BaseException | None:
        """Returns the error that ended the waveform early; ``None`` if there is none so far."""
        return self._error

    def hang_up(self) -> None:
        """Ends reading and calls ``on_close`` if the waveform is not complete; wakes a waiting consumer."""
        complete = self._ring.closed and not self._ring.abandoned
        self._ring.abandon()
        with self._condition:
            self._left = True
            call, self._on_close = self._on_close, None
            self._condition.notify_all()
        if call is not None and not complete:
            call()

    def watch(self, stop: threading.Event) -> None:
        """Polls the ring for a consumer in another process: reads, end of reading, or end of that process.

        Args:
            stop: set by another thread to end the polling.
        """
        polls = 0
        while not stop.wait(_POLL_SECONDS):
            polls += 1
            left = self._ring.abandoned or (polls % _POLLS_A_LOOK == 0 and self._ring.consumer_ended)
            if left and not self._ring.closed:
                self.hang_up()
                return
            self.freed()


class RemoteLink:
    """Link of a consumer to a producer in another process; the methods are those of `LocalLink`."""

    def __init__(self, ring: RingBuffer) -> None:
        """Uses an attached ring."""
        self._ring = ring
        self._lost = False

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """See `LocalLink`; also returns if the other process has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        polls = 0
        while not ready() and not self._lost:
            if end is not None and time.monotonic() >= end:
                return False
            polls += 1
            self._lost = polls % _POLLS_A_LOOK == 0 and self._ring.producer_ended
            time.sleep(_POLL_SECONDS)
        return True

    def freed(self) -> None:
        """Does nothing: the other process polls the ring."""

    def error(self) -> BaseException | None:
        if not self._ring.closed:  # read again here: a process may close the ring and exit at once
            lost = "the process that writes the stream has ended without finishing it"
            return ExecutorError(lost) if self._lost else None
        code, message = self._ring.error
        if not code:
            return None
        return _CODED[code - 1](message) if code <= len(_CODED) else ExecutorError(message)

    def hang_up(self) -> None:
        self._ring.abandon()


class StreamSink:
    """A `Sink` that writes to a ring buffer. It has no reference to the stream, so that a dropped stream is deleted."""

    def __init__(self, ring: RingBuffer, link: LocalLink, encoder: Int16Encoder | None) -> None:
        """Starts a polling thread if the ring is shared.

        Args:
            ring: of float32, or of int16 with an encoder.
            link: link to the consumer.
            encoder: converts the samples to int16, directly into the ring.
        """
        self._ring = ring
        self._link = link
        self._encoder = encoder
        self._dropped = False
        self._stop = threading.Event()
        if ring.name is not None:
            threading.Thread(target=link.watch, args=(self._stop,), name="audio-stream", daemon=True).start()

    def room(self) -> int | None:
        """See `Sink`; no bound after the consumer has stopped reading: samples are then dropped."""
        return None if self._ring.abandoned else self._link.room()

    def urgent(self) -> bool:
        ring = self._ring
        return not ring.abandoned and 2 * ring.available_read < ring.capacity

    def write(self, samples: FloatArray) -> None:
        """See `Sink`; samples that do not fit are lost and counted as overrun.

        Raises:
            VocoderError: the samples are not float32 [n], or the sink is finished.
        """
        ring = self._ring
        if ring.abandoned:
            self._dropped = True
            return
        if self._encoder is None:
            ring.write(samples)
        else:
            taken = 0
            for view in ring.reserve(len(samples)):
                self._encoder.encode(samples[taken : taken + len(view)], view)
                taken += len(view)
            ring.commit(taken)
            if taken < len(samples):
                ring.lose(len(samples) - taken)
        self._link.wake()

    def finish(self, error: BaseException | None) -> None:
        """See `Sink`; only the first call has an effect."""
        if error is None and self._dropped:
            error = CancelledError("the stream was closed before its end")  # another process may still be reading
        if not self._ring.closed:
            self._link.finish(error)
        self._stop.set()


def _coded(error: BaseException | None) -> tuple[int, str]:
    if error is None:
        return 0, ""
    if type(error) in _CODED:
        return _CODED.index(type(error)) + 1, str(error)
    return _OTHER, f"{type(error).__name__}: {error}"
