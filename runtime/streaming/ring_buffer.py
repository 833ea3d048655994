"""Lock-free ring buffer of samples between one producer and one consumer.

The producer counts the samples written, the consumer the samples read, both from the start. The counts never decrease,
and each has one writer. The low bits of a sample's number are its position in the ring. Samples between the two counts
belong to the consumer, all others to the producer.

Samples must become visible before the count that includes them. Within a process the global interpreter lock ensures
this. Between processes the processor must: x86-64 keeps the order of stores and of loads, and accesses an aligned word
of eight bytes atomically (Intel's manual, volume 3, "Memory Ordering"; glibc ends copies that bypass the cache with a
fence). On other machines a ring in shared memory is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.streaming import ring_header as header
from wavernn_trt.runtime.streaming.ring_header import Encoding, Memory, Octets, RingFormat
from wavernn_trt.runtime.streaming.shared_memory import SharedSegment, has_ended, own_mark

Samples = NDArray[Any]
"""[n], float32 or int16, the encoding of the ring."""

# Module globals: faster to look up than attributes of another module.
_WRITTEN, _READ = header.WRITTEN, header.READ


class RingBuffer:
    """Ring buffer of samples from one thread or process to another.

    The producer calls `reserve`, `commit`, `write` and `close`; the consumer calls `peek`, `advance`, `read_into`,
    `read_or_silence` and `abandon`. No method waits.

    - **Overrun**: `write` writes the samples that fit; the rest is lost and counted in `overruns`.
    - **Underrun**: `read_or_silence` replaces missing samples by zeros and counts them in `underruns`, unless the
      producer has closed the ring. The other methods read the samples available, which is not an underrun.
    """

    def __init__(self, capacity: int, encoding: Encoding, sample_rate: int, memory: Memory | None = None) -> None:
        """Makes an empty ring.

        Args:
            capacity: capacity in samples, a power of two.
            encoding: ``float32`` or ``int16``.
            sample_rate: Hz; information for the consumer only.
            memory: `bytes_needed` bytes or more for header and samples, for example pinned memory, which a device can
                write directly. Its address must be a multiple of 8; 64 is best. ``None`` allocates new memory.

        Raises:
            VocoderError: a value is not valid, or the memory is too small, read-only or not aligned.
        """
        layout = RingFormat(capacity, encoding, sample_rate)
        header.check_order(shared=False)
        if memory is None:
            spare = np.empty(layout.total_bytes + 64, np.uint8)
            memory = spare[-spare.ctypes.data % 64 :][: layout.total_bytes]
        octets = header.as_octets(memory, layout.total_bytes)
        header.write_header(octets, layout)
        self._open(octets, layout, None)

    @classmethod
    def create(cls, name: str | None, capacity: int, encoding: Encoding, sample_rate: int) -> RingBuffer:
        """Makes an empty ring in shared memory; this process is the producer.

        Args:
            name: name of the shared memory, without slashes; ``None`` chooses one.
            capacity: see the constructor.
            encoding: see the constructor.
            sample_rate: see the constructor.

        Returns:
            The ring. The reading process needs its `name`, which is removed with the ring.

        Raises:
            VocoderError: as for the constructor; the name is in use; not enough memory; or not Linux on x86-64.
        """
        layout = RingFormat(capacity, encoding, sample_rate)
        header.check_order(shared=True)
        segment = SharedSegment.create(name, layout.total_bytes)
        octets = header.as_octets(segment.memory, layout.total_bytes)
        header.write_header(octets, layout)
        ring = cls.__new__(cls)
        ring._open(octets, layout, segment)
        ring._write_own_mark(header.PRODUCER)
        return ring

    @classmethod
    def attach(cls, name: str) -> RingBuffer:
        """Opens the ring that another process created; this process is the consumer.

        Raises:
            VocoderError: there is no such shared memory; it has no complete ring of this version; the ring has or had
                a reader; or not Linux on x86-64.
        """
        header.check_order(shared=True)
        segment, origin = SharedSegment.attach(name), f"shared memory {name!r}"
        octets = header.as_octets(segment.memory)
        ring = cls.__new__(cls)
        ring._open(octets, header.read_header(octets, origin), segment)
        consumer = ring._read_mark(header.CONSUMER)
        if ring.abandoned or (consumer[0] and not has_ended(consumer)):
            state = "had" if ring.abandoned else "has"
            raise VocoderError(
                f"{origin}: found that it {state} a reader, process {consumer[0]}, expected none: a ring has one reader"
            )
        ring._write_own_mark(header.CONSUMER)
        return ring

    def _open(self, octets: Octets, layout: RingFormat, segment: SharedSegment | None) -> None:
        self.capacity, self.encoding, self.sample_rate = layout.capacity, layout.encoding, layout.sample_rate
        self.dtype = np.dtype(layout.encoding)
        self._segment = segment
        self._mask = layout.capacity - 1
        self._words = header.header_words(octets)
        self._message = octets[header.MESSAGE]
        self._samples: Samples = octets[header.HEADER_BYTES : layout.total_bytes].view(self.dtype)
        self._read_only = self._samples.view()
        self._read_only.flags.writeable = False

    @staticmethod
    def bytes_needed(capacity: int, encoding: Encoding) -> int:
        """Returns the bytes of memory for a ring of ``capacity`` samples, including the header.

        Raises:
            VocoderError: a value is not valid.
        """
        return RingFormat(capacity, encoding, 1).total_bytes

    @property
    def name(self) -> str | None:
        """Name of the shared memory; ``None`` if it is not shared."""
        return self._segment.name if self._segment else None

    def remove(self) -> None:
        """Removes the shared memory's name if this process created it; attached processes keep the ring."""
        if self._segment:
            self._segment.remove()

    @property
    def available_read(self) -> int:
        """Samples that can be read; decreases only when the consumer reads."""
        words = self._words
        return words[_WRITTEN] - words[_READ]

    @property
    def available_write(self) -> int:
        """Samples that can be written; decreases only when the producer writes."""
        words = self._words
        return self.capacity - words[_WRITTEN] + words[_READ]

    @property
    def overruns(self) -> int:
        """Samples lost because the ring had no room."""
        return self._words[header.OVERRUNS]

    @property
    def underruns(self) -> int:
        """Samples of silence read in place of samples not yet written."""
        return self._words[header.UNDERRUNS]

    @property
    def closed(self) -> bool:
        """Whether the producer has closed the ring; `available_read` then includes its last sample."""
        return self._words[header.CLOSED] != 0

    @property
    def error(self) -> tuple[int, str]:
        """Error code and message with which the producer closed the ring; code 0 is success."""
        message = self._message[: self._words[header.MESSAGE_BYTES]].tobytes()
        return self._words[header.ERROR], message.decode("utf-8", "ignore")

    @property
    def abandoned(self) -> bool:
        """Whether the consumer has stopped reading."""
        return self._words[header.ABANDONED] != 0

    @property
    def producer_ended(self) -> bool:
        """Whether the process that created a shared ring has ended."""
        return has_ended(self._read_mark(header.PRODUCER))

    @property
    def consumer_ended(self) -> bool:
        """Whether the process that attached a shared ring has ended."""
        return has_ended(self._read_mark(header.CONSUMER))

    def reserve(self, count: int) -> tuple[Samples, ...]:
        """Returns the space for the next samples; the consumer can read them after `commit`.

        Args:
            count: number of samples to write.

        Returns:
            One view, or two at the end of the ring, with ``count`` samples in all, or fewer if fewer fit.
        """
        words = self._words
        written = words[_WRITTEN]
        return self._views(self._samples, written, min(count, self.capacity - written + words[_READ]))

    def commit(self, count: int) -> None:
        """Makes the first ``count`` reserved samples readable.

        Raises:
            VocoderError: there is no room for ``count`` samples, or the ring is closed.
        """
        words = self._words
        written = words[_WRITTEN]
        room = self.capacity - written + words[_READ]
        if not 0 <= count <= room or words[header.CLOSED]:
            found = "a closed ring" if words[header.CLOSED] else f"room for {room}"
            raise VocoderError(f"commit of {count} samples: found {found}, expected an open one with room for all")
        words[_WRITTEN] = written + count

    def lose(self, count: int) -> None:
        """Counts samples that did not fit as overrun."""
        self._words[header.OVERRUNS] += count

    def write(self, samples: Samples) -> int:
        """Writes the samples that fit and counts the rest as overrun.

        Args:
            samples: [n], of the ring's encoding.

        Returns:
            The number of samples written.

        Raises:
            VocoderError: the samples have another type or shape, or the ring is closed.
        """
        self._check(samples)
        taken = 0
        for view in self.reserve(len(samples)):
            view[:] = samples[taken : taken + len(view)]
            taken += len(view)
        self.commit(taken)
        if taken < len(samples):
            self.lose(len(samples) - taken)
        return taken

    def close(self, error: int = 0, message: str = "") -> None:
        """Closes the ring after the last sample. Only the first call has an effect.

        Args:
            error: 0 if the samples are complete, else an error code.
            message: the error's text; truncated after about 700 bytes.
        """
        words = self._words
        if words[header.CLOSED]:
            return
        text = np.frombuffer(message.encode()[: len(self._message)], np.uint8)
        self._message[: len(text)] = text
        words[header.MESSAGE_BYTES] = len(text)
        words[header.ERROR] = error
        words[header.CLOSED] = 1  # last, so that the consumer sees the words above

    def peek(self, count: int) -> tuple[Samples, ...]:
        """Returns views of the next samples, without copying.

        Args:
            count: maximum number of samples.

        Returns:
            One read-only view, or two at the end of the ring, with ``count`` samples in all, or fewer if fewer are
            available. They are valid until `advance`.
        """
        words = self._words
        read = words[_READ]
        return self._views(self._read_only, read, min(count, words[_WRITTEN] - read))

    def advance(self, count: int) -> None:
        """Releases the first ``count`` samples to the producer.

        Raises:
            VocoderError: fewer samples are available.
        """
        words = self._words
        read = words[_READ]
        if not 0 <= count <= words[_WRITTEN] - read:
            raise VocoderError(f"advance by {count} samples: found {words[_WRITTEN] - read}, expected at least as many")
        words[_READ] = read + count

    def read_into(self, out: Samples) -> int:
        """Copies the available samples, at most as many as ``out`` holds.

        Args:
            out: [n], of the ring's encoding; not changed after the copied samples.

        Returns:
            The number of samples copied.

        Raises:
            VocoderError: the array has another type or shape.
        """
        self._check(out)
        taken = 0
        for view in self.peek(len(out)):
            out[taken : taken + len(view)] = view
            taken += len(view)
        self.advance(taken)
        return taken

    def read_or_silence(self, out: Samples) -> int:
        """Copies samples, then zeros for missing ones, which count as underrun unless the ring is closed.

        Args:
            out: [n], of the ring's encoding.

        Returns:
            The number of samples copied; the rest is zeros.

        Raises:
            VocoderError: the array has another type or shape.
        """
        ended = self.closed  # read before the samples: if the ring is closed in between, the missing samples were late
        taken = self.read_into(out)
        if taken < len(out):
            out[taken:] = 0
            if not ended:
                self._words[header.UNDERRUNS] += len(out) - taken
        return taken

    def abandon(self) -> None:
        """Marks that the consumer has stopped reading: the producer can stop."""
        self._words[header.ABANDONED] = 1

    def _views(self, samples: Samples, position: int, count: int) -> tuple[Samples, ...]:
        start = position & self._mask
        stop = start + count
        if stop <= self.capacity:
            return (samples[start:stop],)
        return samples[start:], samples[: stop - self.capacity]

    def _check(self, samples: Samples) -> None:
        if samples.dtype != self.dtype or samples.ndim != 1:
            raise VocoderError(f"samples: found {samples.dtype} {samples.shape}, expected {self.encoding} [n]")

    def _read_mark(self, word: int) -> tuple[int, int, int]:
        process, started, namespace = self._words[word : word + 3]
        return process, started, namespace

    def _write_own_mark(self, word: int) -> None:
        process, started, namespace = own_mark()
        self._words[word + 1], self._words[word + 2] = started, namespace
        self._words[word] = process  # last: a process that reads it can read the rest
