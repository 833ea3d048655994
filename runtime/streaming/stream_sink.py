"""The end of an audio stream that the scheduler writes."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.streaming.pcm import Int16Encoder
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
from wavernn_trt.runtime.streaming.stream_link import LocalLink


class StreamSink:
    """A `Sink` over a ring buffer. It does not hold the listener's end, so that one can see that nobody listens."""

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
        """See `Sink`; no bound where nobody listens any more, and samples go nowhere."""
        return None if self._ring.abandoned else self._link.room()

    def urgent(self) -> bool:
        """See `Sink`: while less than half of the ring is filled."""
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
