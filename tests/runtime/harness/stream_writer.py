"""The writing side of an audio stream: a thread in the place of the scheduler."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import CancelledError

import numpy as np

from wavernn_trt.runtime.streaming.audio_stream import AudioStream

PATIENCE = 60
"""Seconds after which a test that waits has failed."""


class Writer:
    """Writes whole chunks, as the scheduler does, and pauses while there is less room than a chunk."""

    def __init__(
        self,
        stream: AudioStream,
        samples: np.ndarray,
        chunk: int,
        error: Exception | None = None,
        *,
        endless: bool = False,
    ) -> None:
        self.resumed = threading.Event()
        self.cancelled = threading.Event()
        self.pauses = 0
        self.stuck = False
        self._endless = endless
        self._arguments = (
            stream.sink,
            samples,
            chunk,
            error,
        )  # not the stream, which must be garbage when the test drops it
        self._thread = threading.Thread(target=self._run)
        stream.connect(self._cancel, self.resumed.set)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert not self.stuck

    def _cancel(self) -> None:
        self.cancelled.set()
        self.resumed.set()

    def _run(self) -> None:
        sink, samples, chunk, error = self._arguments
        starts = range(0, len(samples), chunk)
        for start in itertools.cycle(starts) if self._endless else starts:
            while (room := sink.room()) is not None and room < chunk and not self.cancelled.is_set():
                self.pauses += 1
                self.stuck = not self.resumed.wait(PATIENCE)
                if self.stuck:
                    return
                self.resumed.clear()
            if self.cancelled.is_set():
                sink.finish(CancelledError())
                return
            sink.write(samples[start : start + chunk].copy())
        sink.finish(error)
