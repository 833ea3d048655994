"""`Ticket`: the future of an utterance's waveform."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from wavernn_trt.runtime.conditioning.windows import FloatArray


class Ticket(Future[FloatArray]):
    """A future of the waveform, float32 [samples]; empty if a sink receives the samples.

    Works with ``result(timeout)``, ``concurrent.futures.as_completed`` and ``asyncio.wrap_future``. It can be cancelled
    until it is done: the utterance leaves its slot at the next chunk boundary. Callbacks run in a scheduler thread,
    often a lane's, and must not wait for the same vocoder.
    """

    def __init__(self, owner: Any = None) -> None:
        """Records the time of submission.

        Args:
            owner: kept alive until the utterance is done.
        """
        super().__init__()
        self.submitted = time.monotonic()
        """Time of submission, on the clock of `time.monotonic`."""
        self.first_samples: float | None = None
        """Time of the first samples."""
        self.finished: float | None = None
        """Time of completion, failure or cancellation."""
        self._owner = owner

    @property
    def latency(self) -> float | None:
        """Seconds from submission to the end; ``None`` before the end."""
        return None if self.finished is None else self.finished - self.submitted

    def cancel(self) -> bool:
        """Cancels the utterance; returns whether it is cancelled."""
        done = super().cancel()
        if done:
            self._release_owner()
        return done

    def set_result(self, result: FloatArray) -> None:
        """Called by the scheduler."""
        self._release_owner()
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """Called by the scheduler."""
        self._release_owner()
        super().set_exception(exception)

    def _release_owner(self) -> None:
        self.finished = self.finished or time.monotonic()
        self._owner = None
