"""A ring of samples between one producer and one consumer, without a lock.

Both sides count samples from the beginning: the producer what it wrote, the consumer what it read. Neither count ever
goes back, each has one writer, and a sample's place is its number's low bits. So a side only ever waits for the other's
count to grow, and what lies between the two counts belongs to the consumer.

Samples must be seen before the count that announces them. Within a process the global interpreter lock sees to that.
Between processes the machine has to: x86-64 keeps the order of stores and of loads and never tears an aligned word of
eight bytes (Intel's manual, volume 3, "Memory Ordering"; copies that bypass the cache end with a fence in glibc). On
other machines a ring in shared memory is refused.
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
"""[n], float32 or int16 as the ring is."""

# Names of this module are found faster than another's.
_WRITTEN, _READ = header.WRITTEN, header.READ


class RingBuffer:
    """Samples on their way from one thread, or process, to one other.

    `reserve`, `commit`, `write` and `close` are the producer's; `peek`, `advance`, `read_into`, `read_or_silence` and
    `abandon` the consumer's. Nothing here ever waits.

    - **Overrun**: `write` takes what fits; the rest is lost, and counted in `overruns`.
    - **Underrun**: `read_or_silence` fills what is not there with zeros, and counts them in `underruns` unless the
      producer had closed the ring. The other ways to read take what is there, which is not an underrun.
    """

    def __init__(self, capacity: int, encoding: Encoding, sample_rate: int, memory: Memory | None = None) -> None:
        """Makes an empty ring.

        Args:
            capacity: samples that it holds, a power of two.
            encoding: ``float32`` or ``int16``.
            sample_rate: Hz; for the consumer, the ring itself does not use it.
            memory: `bytes_needed` bytes or more for header and samples, for instance pinned ones, which a device copies
                into by itself. Its address must be a multiple of 8, and is best one of 64. ``None`` takes new memory.

        Raises:
            VocoderError: a value is not usable, or the memory too small, read-only or not aligned.
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
        """Makes an empty ring in shared memory, for this process to write.

        Args:
            name: of the shared memory, without slashes; ``None`` chooses one.
            capacity: see the constructor.
            encoding: see the constructor.
            sample_rate: see the constructor.

        Returns:
            The ring. Its `name` goes to the process that will read, and is removed with the ring.

        Raises:
            VocoderError: as for the constructor; the name is taken; not enough memory; or not Linux on x86-64.
        """
        layout = RingFormat(capacity, encoding, sample_rate)
        header.check_order(shared=True)
        segment = SharedSegment.create(name, layout.total_bytes)
        octets = header.as_octets(segment.memory, layout.total_bytes)
        header.write_header(octets, layout)
        ring = cls.__new__(cls)
        ring._open(octets, layout, segment)
        ring._introduce(header.PRODUCER)
        return ring

    @classmethod
    def attach(cls, name: str) -> RingBuffer:
        """The ring that another process created, for this one to read.

        Raises:
            VocoderError: there is no such shared memory; no ring of this version in it, or one that is cut off; someone
                reads it already; or not Linux on x86-64.
        """
        header.check_order(shared=True)
        segment, origin = SharedSegment.attach(name), f"shared memory {name!r}"
        octets = header.as_octets(segment.memory)
        ring = cls.__new__(cls)
        ring._open(octets, header.read_header(octets, origin), segment)
        consumer = ring._mark(header.CONSUMER)
        if ring.abandoned or (consumer[0] and not has_ended(consumer)):
            state = "had" if ring.abandoned else "has"
            raise VocoderError(
                f"{origin}: found that it {state} a reader, process {consumer[0]}, expected none: a ring has one"
            )
        ring._introduce(header.CONSUMER)
        return ring

    def _open(self, octets: Octets, layout: RingFormat, segment: SharedSegment | None) -> None:
        self.capacity, self.encoding, self.sample_rate = layout.capacity, layout.encoding, layout.sample_rate
        self.dtype = np.dtype(layout.encoding)
        self._segment = segment
        self._mask = layout.capacity - 1
        self._words = header.header_words(octets)
        self._message = octets[header.MESSAGE]
        self._samples: Samples = octets[header.HEADER_BYTES : layout.total_bytes].view(self.dtype)
        self._shown = self._samples.view()
        self._shown.flags.writeable = False

    @staticmethod
    def bytes_needed(capacity: int, encoding: Encoding) -> int:
        """Size of the memory for a ring of ``capacity`` samples, header and all.

        Raises:
            VocoderError: a value is not usable.
        """
        return RingFormat(capacity, encoding, 1).total_bytes

    @property
    def name(self) -> str | None:
        """Of the shared memory; ``None`` where it is not shared."""
        return self._segment.name if self._segment else None

    def remove(self) -> None:
        """Removes the shared memory's name, where this process created it; attached processes keep the ring."""
        if self._segment:
            self._segment.remove()

    @property
    def available_read(self) -> int:
        """Samples that the consumer can read; as the consumer sees it, this grows until it reads."""
        words = self._words
        return words[_WRITTEN] - words[_READ]

    @property
    def available_write(self) -> int:
        """Samples that fit; as the producer sees it, this grows until it writes."""
        words = self._words
        return self.capacity - words[_WRITTEN] + words[_READ]

    @property
    def overruns(self) -> int:
        """Samples that were lost because they did not fit."""
        return self._words[header.OVERRUNS]

    @property
    def underruns(self) -> int:
        """Samples of silence that were read in place of samples that had not come yet."""
        return self._words[header.UNDERRUNS]

    @property
    def closed(self) -> bool:
        """Whether the producer has ended; `available_read` then includes its last sample."""
        return self._words[header.CLOSED] != 0

    @property
    def error(self) -> tuple[int, str]:
        """The code and the message that the producer closed the ring with; 0 where all went well."""
        message = self._message[: self._words[header.MESSAGE_BYTES]].tobytes()
        return self._words[header.ERROR], message.decode("utf-8", "ignore")

    @property
    def abandoned(self) -> bool:
        """Whether the consumer will not read any more."""
        return self._words[header.ABANDONED] != 0

    @property
    def producer_ended(self) -> bool:
        """Whether the process that created a shared ring is gone."""
        return has_ended(self._mark(header.PRODUCER))

    @property
    def consumer_ended(self) -> bool:
        """Whether the process that attached to a shared ring is gone."""
        return has_ended(self._mark(header.CONSUMER))

    def reserve(self, count: int) -> tuple[Samples, ...]:
        """Where the next samples go; the consumer sees what is written there once it is committed.

        Args:
            count: samples that are to be written.

        Returns:
            One view, or two where they pass the ring's end: of together ``count`` samples or, if that is less, as many
            as fit.
        """
        words = self._words
        written = words[_WRITTEN]
        return self._views(self._samples, written, min(count, self.capacity - written + words[_READ]))

    def commit(self, count: int) -> None:
        """Hands the first ``count`` reserved samples to the consumer.

        Raises:
            VocoderError: more than fit, or the ring is closed.
        """
        words = self._words
        written = words[_WRITTEN]
        room = self.capacity - written + words[_READ]
        if not 0 <= count <= room or words[header.CLOSED]:
            found = "a closed ring" if words[header.CLOSED] else f"room for {room}"
            raise VocoderError(f"commit of {count} samples: found {found}, expected an open one with room for all")
        words[_WRITTEN] = written + count

    def lose(self, count: int) -> None:
        """Counts samples as overrun that the producer had and that did not fit."""
        self._words[header.OVERRUNS] += count

    def write(self, samples: Samples) -> int:
        """Writes what fits and counts the rest as overrun.

        Args:
            samples: [n], of the ring's encoding.

        Returns:
            How many fitted.

        Raises:
            VocoderError: samples of another type or shape, or the ring is closed.
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
        """Ends the ring; the consumer sees it behind the last sample. Only the first call has an effect.

        Args:
            error: 0 if the samples are complete, else any code.
            message: what happened; cut off after some 700 bytes.
        """
        words = self._words
        if words[header.CLOSED]:
            return
        text = np.frombuffer(message.encode()[: len(self._message)], np.uint8)
        self._message[: len(text)] = text
        words[header.MESSAGE_BYTES] = len(text)
        words[header.ERROR] = error
        words[header.CLOSED] = 1  # last, as every announcement here

    def peek(self, count: int) -> tuple[Samples, ...]:
        """The next samples where they lie.

        Args:
            count: samples wanted.

        Returns:
            One read-only view, or two where they pass the ring's end: of together ``count`` samples or, if that is
            less, all there are. They hold until `advance`.
        """
        words = self._words
        read = words[_READ]
        return self._views(self._shown, read, min(count, words[_WRITTEN] - read))

    def advance(self, count: int) -> None:
        """Gives the first ``count`` samples back to the producer.

        Raises:
            VocoderError: more than are there.
        """
        words = self._words
        read = words[_READ]
        if not 0 <= count <= words[_WRITTEN] - read:
            raise VocoderError(f"advance by {count} samples: found {words[_WRITTEN] - read}, expected at least as many")
        words[_READ] = read + count

    def read_into(self, out: Samples) -> int:
        """Copies samples, as far as there are any.

        Args:
            out: [n], of the ring's encoding; untouched behind what is copied.

        Returns:
            How many were copied.

        Raises:
            VocoderError: an array of another type or shape.
        """
        self._check(out)
        taken = 0
        for view in self.peek(len(out)):
            out[taken : taken + len(view)] = view
            taken += len(view)
        self.advance(taken)
        return taken

    def read_or_silence(self, out: Samples) -> int:
        """Copies samples and, where there are none, zeros, which count as underrun unless the ring had been closed.

        Args:
            out: [n], of the ring's encoding.

        Returns:
            How many are samples.

        Raises:
            VocoderError: an array of another type or shape.
        """
        ended = self.closed  # asked before the samples: those of a ring that is closed meanwhile came late
        taken = self.read_into(out)
        if taken < len(out):
            out[taken:] = 0
            if not ended:
                self._words[header.UNDERRUNS] += len(out) - taken
        return taken

    def abandon(self) -> None:
        """Marks that the consumer has left: the producer need not go on."""
        self._words[header.ABANDONED] = 1

    def _views(self, samples: Samples, counted: int, count: int) -> tuple[Samples, ...]:
        start = counted & self._mask
        stop = start + count
        if stop <= self.capacity:
            return (samples[start:stop],)
        return samples[start:], samples[: stop - self.capacity]

    def _check(self, samples: Samples) -> None:
        if samples.dtype != self.dtype or samples.ndim != 1:
            raise VocoderError(f"samples: found {samples.dtype} {samples.shape}, expected {self.encoding} [n]")

    def _mark(self, word: int) -> tuple[int, int, int]:
        process, started, namespace = self._words[word : word + 3]
        return process, started, namespace

    def _introduce(self, word: int) -> None:
        process, started, namespace = own_mark()
        self._words[word + 1], self._words[word + 2] = started, namespace
        self._words[word] = process  # last: a process that sees it sees the rest
