"""The two ends of a stream: the sink that is written, and how producer and consumer wait for each other."""

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
"""Between polls of shared memory, for which Python has no condition variable: a twentieth of a frame."""
_POLLS_A_LOOK = 100
"""Polls between checks whether the other process still runs."""
_CODED: tuple[type[Exception], ...] = (VocoderError, QueueFullError, DeadlineError, ExecutorError, CancelledError)
_OTHER = 255


class LocalLink:
    """Between a producer and a consumer that are threads of this process."""

    def __init__(self, ring: RingBuffer, chunk: int | None = None) -> None:
        """Links the ends of a ring.

        Args:
            ring: between them.
            chunk: samples that the producer writes at once; ``None`` if it is not known.
        """
        self._ring = ring
        self._chunk = chunk
        self._condition = threading.Condition()
        self._waiting = False
        self._short = False
        self._gone = False
        self._error: BaseException | None = None
        self._on_close: Callable[[], object] | None = None
        self._on_room: Callable[[], object] | None = None

    def connect(self, on_close: Callable[[], object] | None, on_room: Callable[[], object] | None) -> None:
        with self._condition:
            self._on_room = on_room
            self._on_close, late = (None, on_close) if self._gone else (on_close, None)
        if late is not None:
            late()
        self.freed()

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """The consumer waits until ``ready``, which the producer's next write or end makes true; returns whether it is.

        No wake-up is lost. This side first sets that it waits and then reads the ring; `wake` comes after the
        producer has written to the ring, and looks then whether someone waits. Whichever order the four take, one side
        sees the other. If it is the producer, it gets the lock only when this side sleeps, or has looked again.
        """
        with self._condition:
            self._waiting = True
            try:
                return self._condition.wait_for(ready, timeout)
            finally:
                self._waiting = False

    def wake(self) -> None:
        """The producer has written, or ended."""
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    def room(self) -> int:
        """Samples that fit; if that is less than a chunk, `freed` calls ``on_room`` once it no longer is."""
        ring, wanted = self._ring, self._chunk or self._ring.capacity
        room = ring.available_write
        if room < wanted:
            self._short = True
            room = ring.available_write  # the consumer may have read just now, and not found the flag yet
        return room

    def freed(self) -> None:
        """The consumer has read: calls a producer that was short of room."""
        if self._short and self._on_room is not None and self._ring.available_write >= (self._chunk or 1):
            # In this order: a producer that finds no room meanwhile sets the flag again, or is called after that.
            self._short = False
            self._on_room()

    def finish(self, error: BaseException | None) -> None:
        """The producer ends."""
        self._error = error
        self._ring.close(*_coded(error))
        self.wake()

    def error(self) -> BaseException | None:
        """Why the waveform is not complete; ``None`` while that is not known, and if it is complete."""
        return self._error

    def hang_up(self) -> None:
        """The consumer leaves; a waiting consumer checks ``ready`` again."""
        complete = self._ring.closed and not self._ring.abandoned
        self._ring.abandon()
        with self._condition:
            self._gone = True
            call, self._on_close = self._on_close, None
            self._condition.notify_all()
        if call is not None and not complete:
            call()

    def watch(self, stop: threading.Event) -> None:
        """Polls for a consumer in another process: whether it has read, left or ended.

        Args:
            stop: ends this, from another thread.
        """
        polls = 0
        while not stop.wait(_POLL_SECONDS):
            polls += 1
            gone = self._ring.abandoned or (polls % _POLLS_A_LOOK == 0 and self._ring.consumer_ended)
            if gone and not self._ring.closed:
                self.hang_up()
                return
            self.freed()


class RemoteLink:
    """The consumer's side where another process writes; its methods are those of `LocalLink`."""

    def __init__(self, ring: RingBuffer) -> None:
        """Takes the attached ring."""
        self._ring = ring
        self._lost = False

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """See `LocalLink`; ends as well if the other process has ended."""
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
        if not self._ring.closed:  # asked now: a process may finish a stream and go at once
            lost = "the process that writes the stream is gone, and had not finished it"
            return ExecutorError(lost) if self._lost else None
        code, message = self._ring.error
        if not code:
            return None
        return _CODED[code - 1](message) if code <= len(_CODED) else ExecutorError(message)

    def hang_up(self) -> None:
        self._ring.abandon()


class StreamSink:
    """A `Sink` over a ring buffer. It has no reference to the stream, whose end thus shows that it is not read."""

    def __init__(self, ring: RingBuffer, link: LocalLink, encoder: Int16Encoder | None) -> None:
        """Writes to a ring.

        Args:
            ring: of float32, or of int16 where there is an encoder.
            link: to the consumer.
            encoder: makes int16 of the samples, in the ring itself.
        """
        self._ring = ring
        self._link = link
        self._encoder = encoder
        self._dropped = False
        self._stop = threading.Event()
        if ring.name is not None:
            threading.Thread(target=link.watch, args=(self._stop,), name="audio-stream", daemon=True).start()

    def room(self) -> int | None:
        """See `Sink`; no bound once the consumer has left: samples are then dropped."""
        return None if self._ring.abandoned else self._link.room()

    def urgent(self) -> bool:
        ring = self._ring
        return not ring.abandoned and 2 * ring.available_read < ring.capacity

    def write(self, samples: FloatArray) -> None:
        """See `Sink`; samples beyond the room are lost and counted as overrun.

        Raises:
            VocoderError: not float32 [n], or after `finish`.
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
        """See `Sink`; the first call counts."""
        if error is None and self._dropped:
            error = CancelledError("the stream was closed before its end")  # another process may still read
        if not self._ring.closed:
            self._link.finish(error)
        self._stop.set()


def _coded(error: BaseException | None) -> tuple[int, str]:
    if error is None:
        return 0, ""
    if type(error) in _CODED:
        return _CODED.index(type(error)) + 1, str(error)
    return _OTHER, f"{type(error).__name__}: {error}"
