"""A vocoder for asyncio: the same scheduler, awaited."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

from numpy.typing import ArrayLike

from wavernn_trt.runtime.conditioning import FloatArray
from wavernn_trt.runtime.errors import QueueFullError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.sinks import Sink
from wavernn_trt.runtime.scheduling.statistics import SchedulerStatistics
from wavernn_trt.runtime.scheduling.tasks import Urgency
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.streaming.ring_buffer import Samples
from wavernn_trt.runtime.vocoder import Vocoder, VocoderConfig

_PIECES_AHEAD = 8
"""Pieces of an arriving mel that are taken from an asynchronous iterator before the vocoder has them."""


class AsyncVocoder:
    """A `Vocoder` whose work is awaited; a task that is cancelled cancels what it asked for.

    Both may be used at the same time, and share slots and queue.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        """Takes a loaded vocoder; `load` loads one."""
        self.vocoder = vocoder
        # Who waits for room in a full queue waits in here, in order, and the event loop goes on.
        self._entrance = ThreadPoolExecutor(1, thread_name_prefix="wavernn-trt entrance")

    @classmethod
    async def load(cls, *arguments: Any, **options: Any) -> AsyncVocoder:
        """Loads a model in another thread; the arguments are `Vocoder.load`'s.

        Raises:
            ValueError: as for `Vocoder.load`.
        """
        return cls(await asyncio.to_thread(Vocoder.load, *arguments, **options))

    @property
    def config(self) -> VocoderConfig:
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

        def submit(*, wait: bool) -> Ticket:
            return self.vocoder.submit(request, urgency=urgency, deadline=deadline, wait=wait)

        return await asyncio.wrap_future(await self._enter(submit, wait=wait))

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

        def submit(*, wait: bool) -> Ticket:
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

        ticket = await self._enter(submit, wait=wait)
        if isinstance(pieces, _Pump):
            ticket.add_done_callback(pieces.start())
        return listening

    async def close(self) -> None:
        """Closes the vocoder, in another thread."""
        self._entrance.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.vocoder.close)

    async def __aenter__(self) -> AsyncVocoder:
        """The vocoder itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        await self.close()

    async def _enter(self, submit: Callable[..., Ticket], *, wait: bool) -> Ticket:
        """Submits at once, or behind those who wait already."""
        try:
            return submit(wait=False)
        except QueueFullError:
            if not wait:
                raise
        entering = self._entrance.submit(submit, wait=True)
        try:
            return await asyncio.wrap_future(entering)
        except asyncio.CancelledError:
            if not entering.cancel():  # it stands at the queue: what comes of it is not wanted
                entering.add_done_callback(lambda done: None if done.exception() else done.result().cancel())
            raise


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

    def __next__(self) -> ArrayLike:
        piece, error = self._queue.get()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._taken.set)
        if error is not None:
            raise error
        assert piece is not None
        return piece

    def start(self) -> Callable[[Any], None]:
        """Begins to pull; what is returned stops it, from any thread."""
        task = self._loop.create_task(self._run())

        def stop(_: Any) -> None:
            self._queue.put((None, StopIteration()))
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(task.cancel)

        return stop

    async def _run(self) -> None:
        try:
            async for piece in self._pieces:
                self._queue.put((piece, None))
                while self._queue.qsize() >= _PIECES_AHEAD:
                    self._taken.clear()
                    await self._taken.wait()
        except Exception as error:
            self._queue.put((None, error))
        else:
            self._queue.put((None, StopIteration()))
