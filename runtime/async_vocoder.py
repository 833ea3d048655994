"""A vocoder for asyncio: the same scheduler, awaited."""

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

_NONE_LEFT = 1e-9
"""Seconds: of a deadline that passed at the entrance, which the vocoder then says."""
_PIECES_AHEAD = 8
"""Pieces of an arriving mel that are taken from an asynchronous iterator before the vocoder has them."""


class AsyncVocoder:
    """A `Vocoder` whose work is awaited; a task that is cancelled cancels what it asked for.

    Both may be used at the same time, and share slots and queue.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        """Takes a loaded vocoder; `load` loads one."""
        self.vocoder = vocoder
        self._entrance = _Entrance()

    @classmethod
    async def load(cls, *arguments: Any, **options: Any) -> AsyncVocoder:
        """Loads a model in another thread; the arguments are `Vocoder.load`'s.

        Raises:
            ValueError: as for `Vocoder.load`.
        """
        return cls(await asyncio.to_thread(Vocoder.load, *arguments, **options))

    @property
    def config(self) -> LoadedModel:
        """What the model is."""
        return self.vocoder.config

    @property
    def sample_rate(self) -> int:
        """Hz, of what comes out."""
        return self.vocoder.sample_rate

    def statistics(self) -> SchedulerStatistics:
        """Slots, queue, speed and times, now."""
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
        urgency: Urgency = "interactive",
        deadline: float | None = None,
        wait: bool = True,
    ) -> FloatArray:
        """Speaks a mel spectrogram; the arguments are those of `Vocoder.vocode` and `Vocoder.submit`.

        Returns:
            float32 [frames * hop_length].

        Raises:
            VocoderError: see `Vocoder.submit`.
            QueueFullError: the queue is full, and ``wait`` is false.
            DeadlineError: it cannot be ready in time.
            ExecutorError: the backend failed.
        """
        request = Request(mel, seed, uniforms, fold, overlap, sample_rate)

        def submit(*, wait: bool, deadline: float | None) -> Ticket:
            return self.vocoder.submit(request, urgency=urgency, deadline=deadline, wait=wait)

        return await asyncio.wrap_future(await self._enter(submit, wait=wait, deadline=deadline))

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
        """Speaks a mel spectrogram frame by frame: ``async for frame in await vocoder.stream(mel)``.

        Args:
            mel: see `Vocoder.stream`; an asynchronous iterator over its pieces will do too.
            seed: see `Vocoder.stream`.
            uniforms: see `Vocoder.stream`.
            sample_rate: see `Vocoder.stream`.
            lookahead: see `Vocoder.stream`.
            deadline: see `Vocoder.submit`.
            wait: see `Vocoder.submit`.
            options: ``frame``, ``encoding``, ``dither``, ``seconds``, ``memory``: of the `AudioStream`.

        Raises:
            VocoderError: see `Vocoder.stream`.
            QueueFullError: the queue is full, and ``wait`` is false.
            ExecutorError: the backend was given up.
        """
        stream = AudioStream(self.sample_rate, seed=seed, chunk=self.vocoder.chunk, **options)
        listening = AsyncAudioStream(stream, asyncio.get_running_loop())
        pieces = _Pump(mel) if isinstance(mel, AsyncIterable) else mel

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
                sink=listening.sink,
            )

        try:
            ticket = await self._enter(submit, wait=wait, deadline=deadline)
        except BaseException:
            if isinstance(pieces, _Pump):
                pieces.stop()  # a thread may come to pull it yet
            raise
        if isinstance(pieces, _Pump):
            pieces.start()
            ticket.add_done_callback(pieces.stop)
        return listening

    async def close(self) -> None:
        """Closes the vocoder, in another thread."""
        self._entrance.close()
        await asyncio.to_thread(self.vocoder.close)

    async def __aenter__(self) -> AsyncVocoder:
        """The vocoder itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        await self.close()

    async def _enter(self, submit: Callable[..., Ticket], *, wait: bool, deadline: float | None) -> Ticket:
        """Submits at once, or behind those who wait already."""
        asked = time.monotonic()
        try:
            return submit(wait=False, deadline=deadline)
        except QueueFullError:
            if not wait:
                raise

        def enter() -> Ticket:
            left = None if deadline is None else max(asked + deadline - time.monotonic(), _NONE_LEFT)
            return submit(wait=True, deadline=left)

        entering = self._entrance.submit(enter)
        entered = asyncio.wrap_future(entering)
        try:
            await asyncio.wait([entered], timeout=deadline)
            if not entered.done():
                raise DeadlineError(f"deadline: found {deadline:g} s, in which the queue had no room; allow more")
            return entered.result()
        except (asyncio.CancelledError, DeadlineError):
            entered.cancel()
            if not entering.cancel():  # it stands at the queue: what comes of it is not wanted
                entering.add_done_callback(lambda done: None if done.exception() else done.result().cancel())
            raise


class _Entrance:
    """Who waits for room in a full queue waits in here, in order, and the event loop goes on.

    One thread waits, while anybody does. It is a daemon: a program that ends does not wait for room.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Ticket], Callable[[], Ticket]]] = deque()
        self._open = False

    def submit(self, enter: Callable[[], Ticket]) -> Future[Ticket]:
        future: Future[Ticket] = Future()
        with self._lock:
            self._waiting.append((future, enter))
            if not self._open:
                threading.Thread(target=self._run, name="wavernn-trt entrance", daemon=True).start()
                self._open = True
        return future

    def close(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for future, _ in waiting:
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._open = False
                    return
                future, enter = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(enter())
            except BaseException as error:  # whatever it is, somebody awaits it
                future.set_exception(error)


class AsyncAudioStream(AsyncIterator[Samples]):
    """An `AudioStream` whose frames are awaited. Leaving a loop over it does not close it: ``async with`` does."""

    def __init__(self, stream: AudioStream, loop: asyncio.AbstractEventLoop) -> None:
        """Listens to a stream that nobody else reads."""
        self.stream = stream
        """The stream itself, with what it counts."""
        self._written = asyncio.Event()
        self.sink: Sink = _Announcing(stream.sink, loop, self._written)
        """Takes samples on their way to the stream."""

    def __aiter__(self) -> AsyncAudioStream:
        """The stream is its own iterator."""
        return self

    async def __anext__(self) -> Samples:
        """The next frame; the last may be shorter.

        Raises:
            BaseException: what ended the decoding early, behind the last samples.
        """
        while True:
            self._written.clear()  # before looking: what is written later sets it again
            try:
                frame = self.stream.read(timeout=0)
            except TimeoutError:
                await self._written.wait()
                continue
            if not len(frame):
                raise StopAsyncIteration
            return frame

    def close(self) -> None:
        """Stops listening, and cancels the decoding if it still goes on."""
        self.stream.close()
        self._written.set()

    async def __aenter__(self) -> AsyncAudioStream:
        """The stream itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()


class _Announcing:
    """A `Sink` in front of a stream's own, which tells the event loop."""

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
        self._tell()

    def finish(self, error: BaseException | None) -> None:
        self._sink.finish(error)
        self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody listens
            self._loop.call_soon_threadsafe(self._written.set)


class _Pump(Iterator[ArrayLike]):
    """An asynchronous iterator as one that a thread may pull, while the event loop pulls the other."""

    def __init__(self, pieces: AsyncIterable[ArrayLike]) -> None:
        self._pieces = pieces
        self._queue: queue.Queue[tuple[ArrayLike | None, BaseException | None]] = queue.Queue()
        self._loop = asyncio.get_running_loop()
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __next__(self) -> ArrayLike:
        piece, error = self._queue.get()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._taken.set)
        if error is not None:
            raise error
        assert piece is not None
        return piece

    def start(self) -> None:
        """Begins to pull."""
        self._task = self._loop.create_task(self._run())

    def stop(self, _: Any = None) -> None:
        """There is nothing more to pull; from any thread."""
        self._queue.put((None, StopIteration()))
        if self._task is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        try:
            async for piece in self._pieces:
                self._queue.put((piece, None))
                while self._queue.qsize() >= _PIECES_AHEAD:
                    self._taken.clear()
                    await self._taken.wait()
        except asyncio.CancelledError:
            # What the iterator awaits was cancelled, or its loop ends. The listener's own task was not.
            self._queue.put((None, CancelledError("the iterator over the mel was cancelled")))
            raise
        except Exception as error:
            self._queue.put((None, error))
        else:
            self._queue.put((None, StopIteration()))
