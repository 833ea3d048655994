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
"""Default length of a PCM frame; speech codecs and telephony use frames of 20 ms."""


class AudioStream(Iterator[Samples]):
    """Iterator over PCM frames in the order of the waveform; all have the same length except the last.

    One thread reads: by iteration or `read`, which return new arrays, by `frames_view` without copying, or by
    `read_or_silence` and `fill` from a callback that must not wait. A scheduler writes into `sink` from its own
    threads, and pauses while the ring buffer is full. Closing or dropping the stream cancels the decoding.

    Another process can read the samples: if `memory` is a `RingBuffer` made by its ``create``, that process opens the
    stream with `attach` and its `name`. The stream object here must then be kept, but not read, until that process is
    done.
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
        """Makes a stream; a writer uses `sink`.

        Args:
            sample_rate: Hz.
            frame: samples per frame; ``None`` is 20 ms.
            encoding: ``float32``, or ``int16`` (see `Int16Encoder`).
            dither: whether int16 is dithered.
            seconds: capacity in seconds of audio, rounded up to a power of two of samples; at least two frames and two
                chunks.
            memory: memory for the ring buffer and its header, for example pinned memory, used up to the largest power
                of two of samples that fits; or a ring buffer. ``seconds`` is then ignored.
            chunk: number of samples per write, if known.
            seed: seed of the dither.

        Raises:
            VocoderError: a value is not valid.
        """
        self._frame = frame_samples(sample_rate, frame)
        least = 2 * max(self._frame, _positive("chunk", 1 if chunk is None else chunk))
        if dither and encoding != "int16":
            raise VocoderError(f"dither: found it with encoding {encoding!r}, expected int16: float32 is not rounded")
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
        """Opens a stream that another process writes into a shared ring buffer.

        Args:
            name: name of the ring buffer.
            frame: samples per frame; ``None`` is 20 ms.

        Raises:
            VocoderError: as for `RingBuffer.attach`, or ``frame`` is not valid.
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
        """Sets callbacks. A callback whose condition already holds is called at once.

        Args:
            on_close: called once when the stream is closed before its end; cancels the decoding.
            on_room: called after a read, from the reader's thread, if the sink's `room` was below one chunk before
                (below the capacity if the chunk is not known). It must return quickly.

        Raises:
            VocoderError: the writer is another process.
        """
        if not isinstance(self._link, LocalLink):
            raise VocoderError("connect: found a stream that another process writes, expected one written here")
        self._link.connect(on_close, on_room)

    @property
    def sink(self) -> StreamSink:
        """The sink for the writer, float32.

        Raises:
            VocoderError: the writer is another process.
        """
        if self._sink is None:
            raise VocoderError("sink: found a stream that another process writes, expected one written here")
        return self._sink

    @property
    def name(self) -> str | None:
        """Name of the shared memory, for `attach` in another process; ``None`` if it is not shared."""
        return self._ring.name

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        return self._ring.sample_rate

    @property
    def frame(self) -> int:
        """Samples per frame."""
        return self._frame

    @property
    def encoding(self) -> Encoding:
        """Encoding of the samples read."""
        return self._ring.encoding

    @property
    def capacity(self) -> int:
        """Maximum number of unread samples."""
        return self._ring.capacity

    @property
    def buffered(self) -> float:
        """Seconds of unread audio."""
        return max(0, self._ring.available_read) / self._ring.sample_rate

    @property
    def overruns(self) -> int:
        """Samples lost because they were written when the buffer had no room."""
        return self._ring.overruns

    @property
    def underruns(self) -> int:
        """Samples of silence that `read_or_silence` and `fill` returned before the end for missing samples."""
        return self._ring.underruns

    @property
    def ended(self) -> bool:
        """Whether nothing is left to read: all samples are read, or the stream is closed."""
        over = self._ring.closed or self._link.error() is not None
        return self._left or (over and not self._ring.available_read)

    @property
    def error(self) -> BaseException | None:
        """The error that ended the waveform after the samples still to be read; ``None`` if there is none so far."""
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
            frame: number of samples, at most half the capacity; ``None`` reads one frame.
            timeout: maximum wait in seconds.

        Returns:
            [frame], a new array; shorter only at the end of the waveform, empty after the end or after `close`.

        Raises:
            VocoderError: the number of samples is not valid.
            TimeoutError: the samples did not arrive in time; none is lost.
            BaseException: the error that ended the decoding early, after the last samples.
        """
        out = np.empty(self._await(self._check(frame), timeout), self._ring.dtype)
        self._ring.read_into(out)
        self._link.freed()
        return out

    def frames_view(self, frame: int | None = None) -> Iterator[Samples]:
        """Iterates over frames without copying them, for readers that need a frame only until the next one.

        Args:
            frame: samples per frame; ``None`` uses the stream's frame length.

        Yields:
            Read-only [frame], a view of the ring buffer that is valid until the next one is requested; the last may be
            shorter. A frame that wraps around the end of the ring is a copy.

        Raises:
            VocoderError: the number of samples is not valid.
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
        """Reads without waiting, for callbacks: the samples available, then silence.

        Args:
            count: number of samples.

        Returns:
            [count]. Silence before the end of the waveform counts as underrun. Decoding errors are in `error`, not
            raised.

        Raises:
            VocoderError: ``count`` is not a positive integer.
        """
        out = np.empty(_positive("count", count), self._ring.dtype)
        self.fill(out)
        return out

    def fill(self, out: Samples) -> int:
        """Reads as `read_or_silence` does, into an array of the caller.

        Args:
            out: [n], of the stream's encoding; may be a view of any stride.

        Returns:
            The number of samples read; the rest is silence.

        Raises:
            VocoderError: the array has another type or shape.
        """
        if self._left:
            out[:] = 0
            return 0
        taken = self._ring.read_or_silence(out)
        self._link.freed()
        return taken

    def close(self) -> None:
        """Closes the stream and cancels the decoding if it is not complete; further reads are empty."""
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
        link = getattr(self, "_link", None)  # not set if the constructor failed
        if link is None or self._ring.closed or self._left:
            return
        self._ring.abandon()
        # The garbage collector may run in any thread, also in one that holds the lock that `on_close` takes: so a new
        # thread makes the call. `threading.Thread` would take locks itself. No thread can start at interpreter exit.
        with suppress(RuntimeError):
            _thread.start_new_thread(link.hang_up, ())

    def _await(self, size: int, timeout: float | None) -> int:
        """Waits for ``size`` samples or the end; returns how many can be read, 0 at the end."""
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
        # With half of the ring left, the writer has room for a chunk whenever the reader waits.
        if size > self._ring.capacity // 2:
            raise VocoderError(
                f"frame: found {size} samples, expected at most {self._ring.capacity // 2}, half of what the stream "
                "holds; read smaller frames or make the stream with more seconds"
            )
        return size


def frame_samples(sample_rate: int, frame: int | None = None) -> int:
    """Returns the samples per PCM frame.

    Args:
        sample_rate: Hz.
        frame: returned if given; ``None`` is 20 ms.

    Raises:
        VocoderError: a value is not a positive integer.
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
    """Returns the largest power of two of samples that fits after a header."""
    samples = (len(as_octets(memory, HEADER_BYTES + sample_bytes)) - HEADER_BYTES) // sample_bytes
    return min(1 << (samples.bit_length() - 1), LARGEST)
