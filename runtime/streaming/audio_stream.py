"""`AudioStream`: reads a waveform as PCM frames while it is decoded."""

from __future__ import annotations

import _thread
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType

import numpy as np

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.streaming.pcm import Int16Encoder
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer, Samples
from wavernn_trt.runtime.streaming.ring_header import HEADER_BYTES, LARGEST, Encoding, Memory, as_octets
from wavernn_trt.runtime.streaming.stream_link import LocalLink, RemoteLink, StreamSink

FRAME_SECONDS = 0.02
"""Length of a frame of PCM unless another is asked for; speech codecs and telephony take frames of 20 ms."""


class AudioStream(Iterator[Samples]):
    """Frames of PCM, in the order of the waveform and each of the same length but the last.

    One thread reads: by iterating, which yields arrays to keep, by `read`, by `frames_view` without copying, or by
    `read_or_silence` and `fill` from a callback that must not wait. Another thread's scheduler writes into `sink`, and
    pauses where the ring buffer between the two is full. Closing the stream, or dropping it, cancels the decoding.

    Samples can also be read by another process: where `memory` is a `RingBuffer` made by its ``create``, that process
    opens the stream with `attach` and its `name`. The stream here is then only kept, until the other has ended.
    """

    def __init__(
        self,
        sample_rate: int,
        frame: int | None = None,
        encoding: Encoding = "float32",
        dither: bool = False,
        seconds: float = 1.0,
        memory: Memory | RingBuffer | None = None,
        *,
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        """Makes a stream without a writer; `sink` takes one.

        Args:
            sample_rate: Hz.
            frame: samples of a frame; ``None`` is 20 ms.
            encoding: ``float32``, or ``int16`` (see `Int16Encoder`).
            dither: whether int16 is dithered.
            seconds: of audio that may wait to be read, rounded up to a power of two of samples; at least two frames and
                two chunks.
            memory: of the ring buffer, header and all: pinned memory for instance, of which as much is used as makes a
                power of two of samples; or a ring buffer itself. ``seconds`` does not count then.
            chunk: samples that are written at once, where that is known.
            seed: of the dither.

        Raises:
            VocoderError: a value is not usable.
        """
        self._frame = frame_samples(sample_rate, frame)
        least = 2 * max(self._frame, _positive("chunk", 1 if chunk is None else chunk))
        if dither and encoding != "int16":
            raise VocoderError(f"dither: found it with encoding {encoding!r}, expected int16, which alone is rounded")
        if isinstance(memory, RingBuffer):
            ring = memory
            found, expected = (ring.encoding, ring.sample_rate), (encoding, sample_rate)
            if found != expected:
                raise VocoderError(f"memory: found a ring buffer of {found}, expected {expected}")
        elif memory is None:
            ring = RingBuffer(_capacity(seconds, sample_rate, least), encoding, sample_rate)
        else:
            capacity = _fitting(memory, RingBuffer.bytes_needed(1, encoding) - HEADER_BYTES)
            ring = RingBuffer(capacity, encoding, sample_rate, memory)
        if ring.capacity < least:
            raise VocoderError(
                f"memory: found room for {ring.capacity} samples, expected at least {least}, two frames or chunks"
            )
        self._ring = ring
        self._left = False
        link = LocalLink(ring, chunk)
        self._link: LocalLink | RemoteLink = link
        encoder = Int16Encoder(dither=bool(dither), seed=seed) if encoding == "int16" else None
        self._sink: StreamSink | None = StreamSink(ring, link, encoder)

    @classmethod
    def attach(cls, name: str, frame: int | None = None) -> AudioStream:
        """The stream that another process writes into a shared ring buffer, to be read here.

        Args:
            name: the ring buffer's.
            frame: samples of a frame; ``None`` is 20 ms.

        Raises:
            VocoderError: as for `RingBuffer.attach`, or a frame that is not usable.
        """
        ring = RingBuffer.attach(name)
        stream = cls.__new__(cls)
        stream._ring, stream._link, stream._sink = ring, RemoteLink(ring), None
        stream._left = False
        stream._frame = frame_samples(ring.sample_rate, frame)
        stream._check(stream._frame)
        return stream

    def connect(
        self, on_close: Callable[[], object] | None = None, on_room: Callable[[], object] | None = None
    ) -> None:
        """Sets callbacks. Each is called at once if what it waits for has happened.

        Args:
            on_close: called once when the stream is closed before its end; cancels the decoding.
            on_room: called after reading, from the reader's thread, if the sink's `room` was less than a chunk before
                (without a known chunk: than the capacity). It must return quickly.

        Raises:
            VocoderError: the writer is another process.
        """
        if not isinstance(self._link, LocalLink):
            raise VocoderError("connect: found a stream that another process writes, expected one written here")
        self._link.connect(on_close, on_room)

    @property
    def sink(self) -> StreamSink:
        """The end that is written, float32.

        Raises:
            VocoderError: the writer is another process.
        """
        if self._sink is None:
            raise VocoderError("sink: found a stream that another process writes, expected one written here")
        return self._sink

    @property
    def name(self) -> str | None:
        """Of the shared memory, for `attach` in another process; ``None`` where it is not shared."""
        return self._ring.name

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self._ring.sample_rate

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return self._frame

    @property
    def encoding(self) -> Encoding:
        """Of the samples read."""
        return self._ring.encoding

    @property
    def capacity(self) -> int:
        """Samples that may wait to be read."""
        return self._ring.capacity

    @property
    def buffered(self) -> float:
        """Seconds of audio that wait to be read."""
        return max(0, self._ring.available_read) / self._ring.sample_rate

    @property
    def overruns(self) -> int:
        """Samples that were lost because they were written without asking for room."""
        return self._ring.overruns

    @property
    def underruns(self) -> int:
        """Samples of silence that `read_or_silence` and `fill` gave before the end, because nothing else was there."""
        return self._ring.underruns

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to read: all was read, or the stream is closed."""
        over = self._ring.closed or self._link.error() is not None
        return self._left or (over and not self._ring.available_read)

    @property
    def error(self) -> BaseException | None:
        """Why the waveform breaks off behind what can still be read; ``None`` if it does not, or not yet."""
        return self._link.error()

    def __iter__(self) -> AudioStream:
        return self

    def __next__(self) -> Samples:
        frame = self.read()
        if not len(frame):
            raise StopIteration
        return frame

    def read(self, frame: int | None = None, timeout: float | None = None) -> Samples:
        """Waits for samples.

        Args:
            frame: how many, at most half the stream's capacity; ``None`` is a frame.
            timeout: seconds to wait at most.

        Returns:
            [frame], the caller's own; shorter only if the waveform ends, and empty behind its end or once closed.

        Raises:
            VocoderError: not a usable number of samples.
            TimeoutError: they did not come in time; none is lost.
            BaseException: what ended the decoding early, behind the last samples.
        """
        out = np.empty(self._await(self._check(frame), timeout), self._ring.dtype)
        self._ring.read_into(out)
        self._link.freed()
        return out

    def frames_view(self, frame: int | None = None) -> Iterator[Samples]:
        """Frames where they lie in the ring buffer, for readers that are done with one when they ask for the next.

        Args:
            frame: samples of each; ``None`` is a frame.

        Yields:
            Read-only [frame], which holds until the next one is asked for; the last may be shorter. A frame that
            passes the ring's end is put together in an array beside it.

        Raises:
            VocoderError: not a usable number of samples.
            BaseException: as for `read`.
        """
        return self._views(self._check(frame))

    def _views(self, size: int) -> Iterator[Samples]:
        while count := self._await(size, None):
            parts = self._ring.peek(count)
            if len(parts) == 1:
                view = parts[0]
            else:
                view = np.concatenate(parts)
                view.flags.writeable = False
            try:
                yield view
            finally:
                self._ring.advance(count)
                self._link.freed()

    def read_or_silence(self, count: int) -> Samples:
        """Samples for a callback that must not wait: what is there, and silence for the rest.

        Args:
            count: how many.

        Returns:
            [count]. Silence before the waveform's end counts as underrun. An error does not raise; see `error`.

        Raises:
            VocoderError: not a number of samples.
        """
        out = np.empty(_positive("count", count), self._ring.dtype)
        self.fill(out)
        return out

    def fill(self, out: Samples) -> int:
        """`read_or_silence` into an array of the caller's.

        Args:
            out: [n], of the stream's encoding; may be a view of any stride.

        Returns:
            How many are samples.

        Raises:
            VocoderError: an array of another type or shape.
        """
        if self._left:
            out[:] = 0
            return 0
        taken = self._ring.read_or_silence(out)
        self._link.freed()
        return taken

    def close(self) -> None:
        """Ends the stream: cancels the decoding if it still goes on; there is nothing more to read."""
        self._left = True
        self._link.hang_up()
        self._ring.remove()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)  # none where the constructor failed
        if link is None or self._ring.closed or self._left:
            return
        self._ring.abandon()
        # Objects in a cycle are collected in whichever thread comes along, and that one may hold the lock which
        # `on_close` takes. Threads of `threading` take locks themselves; at the interpreter's end there are none left.
        with suppress(RuntimeError):
            _thread.start_new_thread(link.hang_up, ())

    def _await(self, size: int, timeout: float | None) -> int:
        """Waits for ``size`` samples or the end; returns how many there are, 0 at the end."""
        ring = self._ring
        if ring.available_read < size and not self._link.wait_for(
            lambda: ring.available_read >= size or ring.closed or self._left, timeout
        ):
            raise TimeoutError(f"stream: found {ring.available_read} samples after {timeout} s, expected {size}")
        if self._left:
            return 0
        count = min(size, ring.available_read)
        if not count and (error := self._link.error()) is not None:
            raise error
        return count

    def _check(self, frame: int | None) -> int:
        size = self._frame if frame is None else _positive("frame", frame)
        # With half of the ring to spare, the writer finds room for a chunk whenever the reader waits.
        if size > self._ring.capacity // 2:
            raise VocoderError(
                f"frame: found {size} samples, expected at most {self._ring.capacity // 2}, half of what the stream "
                "holds; ask for more seconds of it"
            )
        return size


def frame_samples(sample_rate: int, frame: int | None = None) -> int:
    """Samples of a frame of PCM.

    Args:
        sample_rate: Hz.
        frame: if given, that many; else 20 ms.

    Raises:
        VocoderError: not a positive number.
    """
    rate = _positive("sample rate", sample_rate, "of Hz")
    return max(1, round(rate * FRAME_SECONDS)) if frame is None else _positive("frame", frame)


def _positive(name: str, value: int, unit: str = "of samples") -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise VocoderError(f"{name}: found {value!r}, expected a positive number {unit}")
    return int(value)


def _capacity(seconds: float, sample_rate: int, least: int) -> int:
    number = isinstance(seconds, int | float | np.integer | np.floating) and not isinstance(seconds, bool)
    longest = LARGEST / sample_rate
    if not number or not 0 < seconds <= longest or least > LARGEST:
        raise VocoderError(f"seconds: found {seconds!r}, expected more than 0 and at most {longest:.0f}")
    return 1 << (max(math.ceil(seconds * sample_rate), least) - 1).bit_length()


def _fitting(memory: Memory, sample_bytes: int) -> int:
    """The most samples, a power of two, that fit behind a header."""
    samples = (len(as_octets(memory, HEADER_BYTES + sample_bytes)) - HEADER_BYTES) // sample_bytes
    return min(1 << (samples.bit_length() - 1), LARGEST)
