"""The writing side of audio streams in tests."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import CancelledError

import numpy as np

from wavernn_trt.runtime.streaming.audio_stream import AudioStream

PATIENCE = 60
"""Seconds after which whoever waits has failed; nothing takes that long."""


class Writer:
    """Writes as the scheduler does: by whole chunks, pausing where there is less room than one."""

    def __init__(
        self,
        stream: AudioStream,
        samples: np.ndarray,
        chunk: int,
        error: Exception | None = None,
        *,
        endless: bool = False,
    ) -> None:
        self.went_on = threading.Event()
        self.cancelled = threading.Event()
        self.pauses = 0
        self.stuck = False
        self._endless = endless
        self._arguments = (stream.sink, samples, chunk, error)  # and not the stream, which then never were dropped
        self._thread = threading.Thread(target=self._run)
        stream.connect(self._cancel, self.went_on.set)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert not self.stuck

    def _cancel(self) -> None:
        self.cancelled.set()
        self.went_on.set()

    def _run(self) -> None:
        sink, samples, chunk, error = self._arguments
        starts = range(0, len(samples), chunk)
        for start in itertools.cycle(starts) if self._endless else starts:
            while (room := sink.room()) is not None and room < chunk and not self.cancelled.is_set():
                self.pauses += 1
                self.stuck = not self.went_on.wait(PATIENCE)
                if self.stuck:
                    return
                self.went_on.clear()
            if self.cancelled.is_set():
                sink.finish(CancelledError())
                return
            sink.write(samples[start : start + chunk].copy())
        sink.finish(error)
