"""The future of a waveform, which a caller gets for an utterance."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from wavernn_trt.runtime.conditioning.windows import FloatArray


class Ticket(Future[FloatArray]):
    """A future of the waveform, float32 [samples]; empty where a sink takes the samples.

    A future like any other: ``result(timeout)``, ``concurrent.futures.as_completed``, ``asyncio.wrap_future``. It can
    be cancelled until it is done: the utterance leaves its slot at the next chunk boundary. Callbacks run in a thread
    of the scheduler's, often a lane's, and so must not wait for the same vocoder.
    """

    def __init__(self, owner: Any = None) -> None:
        """Notes the time.

        Args:
            owner: kept alive until the utterance is done.
        """
        super().__init__()
        self.submitted = time.monotonic()
        """Seconds, on the clock of `time.monotonic`."""
        self.first_samples: float | None = None
        """When the first samples were there."""
        self.finished: float | None = None
        """When all were, or the utterance failed."""
        self._owner = owner

    @property
    def latency(self) -> float | None:
        """Seconds from submission to the end; ``None`` before the end."""
        return None if self.finished is None else self.finished - self.submitted

    def cancel(self) -> bool:
        """Cancels the utterance; returns whether that is so."""
        done = super().cancel()
        if done:
            self._let_go()
        return done

    def set_result(self, result: FloatArray) -> None:
        """For the scheduler."""
        self._let_go()
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For the scheduler."""
        self._let_go()
        super().set_exception(exception)

    def _let_go(self) -> None:
        self.finished = self.finished or time.monotonic()
        self._owner = None
