"""`AsyncVocoder`: the `Vocoder` API for asyncio."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import Any

from numpy.typing import ArrayLike

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import DeadlineError, QueueFullError
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.sinks import Sink
from wavernn_trt.runtime.scheduling.statistics import SchedulerStatistics
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.scheduling.utterance import Urgency
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.streaming.ring_buffer import Samples
from wavernn_trt.runtime.vocoder import Vocoder

_PASSED = 1e-9
"""Deadline in seconds used if the deadline passed before submission; the vocoder then raises the error."""
_PIECES_AHEAD = 8
"""Maximum number of pieces of an arriving mel read from an asynchronous iterator ahead of the vocoder."""


class AsyncVocoder:
    """A `Vocoder` whose results are awaited. Cancelling a task cancels its request.

    The vocoder inside may be used at the same time; both share slots and queue. Conditioners and decoders run in the
    vocoder's threads, never on the event loop.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        """Wraps a loaded vocoder; `load` loads one."""
        self.vocoder = vocoder
        self._blocked = _BlockedSubmissions()

    @classmethod
    async def load(cls, *arguments: Any, **options: Any) -> AsyncVocoder:
        """Loads a model in a thread; the arguments are those of `Vocoder.load`.

        Raises:
            ValueError: as for `Vocoder.load`.
        """
        return cls(await asyncio.to_thread(Vocoder.load, *arguments, **options))

    @property
    def config(self) -> LoadedModel:
        """Path, sizes and audio settings of the model."""
        return self.vocoder.config

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms in Hz."""
        return self.vocoder.sample_rate

    def statistics(self) -> SchedulerStatistics:
        """Returns the current slots, queue, speed and latencies."""
        return self.vocoder.statistics()

    async def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
        urgency: Urgency = "batch",
        deadline: float | None = None,
        wait: bool = True,
    ) -> FloatArray:
        """Vocodes a mel spectrogram; the arguments are those of `Vocoder.vocode` and `Vocoder.submit`.

        Returns:
            float32 [frames * hop_length].

        Raises:
            VocoderError: see `Vocoder.submit`.
            QueueFullError: the queue is full, and ``wait`` is false.
            DeadlineError: the waveform cannot be complete in time.
            ExecutorError: the backend failed.
        """
        request = Request(mel, seed, uniforms, fold, overlap, sample_rate)

        def submit(*, wait: bool, deadline: float | None) -> Ticket:
            return self.vocoder.submit(request, urgency=urgency, deadline=deadline, wait=wait)

        return await asyncio.wrap_future(await self._submit(submit, wait=wait, deadline=deadline))

    async def stream(
        self,
        mel: ArrayLike | AsyncIterable[ArrayLike] | Iterator[ArrayLike],
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        sample_rate: int | None = None,
        lookahead: int | None = None,
        deadline: float | None = None,
        wait: bool = True,
        **options: Any,
    ) -> AsyncAudioStream:
        """Vocodes a mel spectrogram frame by frame: ``async for frame in await vocoder.stream(mel)``.

        Streams are ``interactive``, as those of `Vocoder.stream`.

        Args:
            mel: see `Vocoder.stream`; or an asynchronous iterator over its pieces.
            seed: see `Vocoder.stream`.
            uniforms: see `Vocoder.stream`.
            sample_rate: see `Vocoder.stream`.
            lookahead: see `Vocoder.stream`.
            deadline: see `Vocoder.submit`.
            wait: see `Vocoder.submit`.
            options: ``frame``, ``encoding``, ``dither``, ``seconds`` or ``memory``, passed to `AudioStream`.

        Raises:
            VocoderError: see `Vocoder.stream`.
            QueueFullError: the queue is full, and ``wait`` is false.
            ExecutorError: the backend has failed too often and is no longer used.
        """
        stream = AudioStream(self.sample_rate, seed=seed, chunk=self.vocoder.chunk, **options)
        awaited = AsyncAudioStream(stream, asyncio.get_running_loop())
        pieces = _PieceQueue(mel) if isinstance(mel, AsyncIterable) else mel

        def submit(*, wait: bool, deadline: float | None) -> Ticket:
            return self.vocoder.speak_into(
                stream,
                pieces,
                seed=seed,
                uniforms=uniforms,
                sample_rate=sample_rate,
                lookahead=lookahead,
                deadline=deadline,
                wait=wait,
                sink=awaited.sink,
            )

        try:
            if isinstance(pieces, Iterator):
                # The first use of a look-ahead runs the conditioner on short mels.
                await asyncio.to_thread(self.vocoder.lookahead, lookahead)
            ticket = await self._submit(submit, wait=wait, deadline=deadline)
        except BaseException:
            if isinstance(pieces, _PieceQueue):
                pieces.stop()  # so that a thread still submitting it does not wait for a piece
            raise
        if isinstance(pieces, _PieceQueue):
            pieces.start()
            ticket.add_done_callback(pieces.stop)
        return awaited

    def __reduce__(self) -> tuple[type[AsyncVocoder], tuple[Vocoder]]:
        """Pickles the vocoder inside."""
        return AsyncVocoder, (self.vocoder,)

    async def close(self) -> None:
        """Closes the vocoder, in a thread."""
        self._blocked.close()
        await asyncio.to_thread(self.vocoder.close)

    async def __aenter__(self) -> AsyncVocoder:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _submit(self, submit: Callable[..., Ticket], *, wait: bool, deadline: float | None) -> Ticket:
        """Submits at once, or after all submissions that already wait for room in the queue."""
        self.vocoder.check_process()
        start = time.monotonic()
        if not self._blocked:
            try:
                return submit(wait=False, deadline=deadline)
            except QueueFullError:
                if not wait:
                    raise
        elif not wait:
            raise QueueFullError("queue: found requests waiting for room, expected none; wait for some, or allow more")

        def submit_later() -> Ticket:
            left = None if deadline is None else max(start + deadline - time.monotonic(), _PASSED)
            return submit(wait=True, deadline=left)

        submission = self._blocked.append(submit_later)
        submitted = asyncio.wrap_future(submission)
        try:
            await asyncio.wait([submitted], timeout=deadline)
            if not submitted.done():
                raise DeadlineError(f"deadline: found {deadline:g} s, in which the queue had no room; allow more time")
            return submitted.result()
        except (asyncio.CancelledError, DeadlineError):
            submitted.cancel()
            if not submission.cancel():  # the thread is submitting it
                submission.add_done_callback(lambda done: None if done.exception() else done.result().cancel())
            raise


class _BlockedSubmissions:
    """Submissions that wait for room in a full queue, in order, without blocking the event loop.

    One daemon thread submits them; it ends when none is left, and does not delay the exit of the program. The object
    is true while a submission waits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Ticket], Callable[[], Ticket]]] = deque()
        self._count = 0  # waiting submissions, including the one in the thread
        self._running = False

    def __bool__(self) -> bool:
        with self._lock:
            return self._count > 0

    def append(self, submit: Callable[[], Ticket]) -> Future[Ticket]:
        future: Future[Ticket] = Future()
        with self._lock:
            self._waiting.append((future, submit))
            self._count += 1
            if not self._running:
                threading.Thread(target=self._run, name="wavernn-trt submissions", daemon=True).start()
                self._running = True
        return future

    def close(self) -> None:
        """Cancels all submissions except the one in the thread, which ends when the vocoder closes."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._count -= len(waiting)
        for future, _ in waiting:
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                future, submit = self._waiting.popleft()
            ticket, failure = None, None
            if running := future.set_running_or_notify_cancel():
                try:
                    ticket = submit()
                except BaseException as error:
                    failure = error
            with self._lock:
                self._count -= 1
            if ticket is not None:
                future.set_result(ticket)
            elif running:
                future.set_exception(failure)


class AsyncAudioStream(AsyncIterator[Samples]):
    """An `AudioStream` whose frames are awaited. ``async with`` closes it; leaving an ``async for`` loop does not."""

    def __init__(self, stream: AudioStream, loop: asyncio.AbstractEventLoop) -> None:
        """Wraps a stream that has no other reader; frames are awaited on ``loop``."""
        self.stream = stream
        """The wrapped stream, with its counters."""
        self._written = asyncio.Event()
        self.sink: Sink = _NotifyingSink(stream.sink, loop, self._written)
        """Sink for the writer: forwards to the stream's sink and wakes the reader."""

    def __aiter__(self) -> AsyncAudioStream:
        return self

    async def __anext__(self) -> Samples:
        """Returns the next frame; the last may be shorter.

        Raises:
            BaseException: the error that ended the decoding early, after the last samples.
        """
        while True:
            self._written.clear()  # before the read: a later write sets it again
            try:
                frame = self.stream.read(timeout=0)
            except TimeoutError:
                await self._written.wait()
                continue
            if not len(frame):
                raise StopAsyncIteration
            return frame

    def close(self) -> None:
        """Closes the stream and cancels the decoding if it is not complete."""
        self.stream.close()
        self._written.set()

    async def __aenter__(self) -> AsyncAudioStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _NotifyingSink:
    """A stream's sink that sets an event of the event loop after each write."""

    def __init__(self, sink: Sink, loop: asyncio.AbstractEventLoop, written: asyncio.Event) -> None:
        self._sink = sink
        self._loop = loop
        self._written = written

    def room(self) -> int | None:
        return self._sink.room()

    def urgent(self) -> bool:
        return self._sink.urgent()

    def write(self, samples: FloatArray) -> None:
        self._sink.write(samples)
        self._notify()

    def finish(self, error: BaseException | None) -> None:
        self._sink.finish(error)
        self._notify()

    def _notify(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._written.set)


class _PieceQueue(Iterator[ArrayLike]):
    """Pieces of a mel from an asynchronous iterator, read on the event loop; a thread iterates over the queue."""

    def __init__(self, pieces: AsyncIterable[ArrayLike]) -> None:
        self._pieces = pieces
        self._queue: queue.Queue[ArrayLike | BaseException] = queue.Queue()
        self._loop = asyncio.get_running_loop()
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __next__(self) -> ArrayLike:
        piece = self._queue.get()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._taken.set)
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def start(self) -> None:
        """Starts to read the asynchronous iterator."""
        self._task = self._loop.create_task(self._run())

    def stop(self, _: Any = None) -> None:
        """Ends both iterators; callable from any thread."""
        self._queue.put(StopIteration())
        if self._task is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        try:
            async for piece in self._pieces:
                self._queue.put(piece)
                while self._queue.qsize() >= _PIECES_AHEAD:
                    self._taken.clear()
                    await self._taken.wait()
        except asyncio.CancelledError:
            # The iterator awaits a cancelled task, or the loop ends: the reader gets an error of its own.
            self._queue.put(CancelledError("the iterator over the mel was cancelled"))
            raise
        except Exception as error:
            self._queue.put(error)
        else:
            self._queue.put(StopIteration())
