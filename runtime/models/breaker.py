"""A circuit breaker: stops calls after too many failures, and permits trial calls after a delay."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wavernn_trt.runtime.errors import VocoderError, check_positive

BreakerState = Literal["closed", "open", "half-open"]


@dataclass(frozen=True)
class BreakerSettings:
    """When a breaker opens, and how it closes again."""

    window: int = 20
    """Number of recent calls over which the failure rate is computed."""
    failure_rate: float = 0.5
    """The breaker opens at this share of failed calls; above 0, at most 1."""
    minimum_calls: int = 10
    """Calls in the window before the failure rate is used; at most ``window``."""
    open_seconds: float = 30.0
    """Seconds in the open state before trials are permitted. Doubled when a trial fails, or when the breaker opens
    again after it was closed for a shorter time than this."""
    longest_open_seconds: float = 1800.0
    """Maximum of the doubled time; set it to ``open_seconds`` for a constant time."""
    trials: int = 1
    """Trials that must succeed in the half-open state before the breaker closes; also the maximum number of
    simultaneous trials."""

    def __post_init__(self) -> None:
        for name in ("window", "minimum_calls", "trials"):
            check_positive(name, getattr(self, name), "of calls")
        if self.minimum_calls > self.window:
            raise VocoderError(
                f"minimum_calls: found {self.minimum_calls}, expected at most window, which is {self.window}"
            )
        if not 0 < self.failure_rate <= 1:
            raise VocoderError(f"failure_rate: found {self.failure_rate!r}, expected a share above 0, at most 1")
        if not 0 < self.open_seconds <= self.longest_open_seconds < math.inf:
            raise VocoderError(
                f"open_seconds: found {self.open_seconds!r}, expected seconds above 0, at most longest_open_seconds, "
                f"which is {self.longest_open_seconds!r}"
            )


class CircuitBreaker:
    """Counts successes and failures of calls. Thread-safe; no method blocks.

    Closed: every call is permitted. Open, after too many of the recent calls failed: no call is permitted for some
    time. Half-open: a few trials are permitted; the breaker closes if all succeed, and opens at the first failure.
    """

    def __init__(self, settings: BreakerSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings or BreakerSettings()
        self._clock = clock
        self._lock = threading.Lock()
        self._state: BreakerState = "closed"
        self._generation = 0  # of the state: results of calls permitted in an earlier state are ignored
        self._failed: deque[bool] = deque(maxlen=self.settings.window)
        self._closed_since = clock()
        self._open_seconds = self.settings.open_seconds
        self._open_until = 0.0
        self._trials = 0  # running or succeeded
        self._succeeded = 0

    @property
    def state(self) -> BreakerState:
        """``open`` until the first trial is permitted, then ``half-open``."""
        with self._lock:
            return self._state

    def permit(self) -> Permit | None:
        """Permission for one call, to which its result is reported; ``None`` if the call is not permitted."""
        with self._lock:
            if self._state == "open" and self._clock() >= self._open_until:
                self._enter("half-open")
            if self._state == "half-open" and self._trials < self.settings.trials:
                self._trials += 1
                return Permit(self, self._generation, trial=True)
            return Permit(self, self._generation, trial=False) if self._state == "closed" else None

    def end_open_time(self) -> None:
        """Permits trials at once if the breaker is open; used when the cause of the failures has changed."""
        with self._lock:
            self._open_until = -math.inf

    def _report(self, generation: int, *, failed: bool | None, opens: bool = False) -> bool:
        """Records a result; ``failed=None`` is no result. Returns whether the breaker opened or closed."""
        with self._lock:
            if generation != self._generation:
                return False
            if self._state == "half-open":
                return self._report_trial(failed)
            if failed is None:
                return False
            self._failed.append(failed)
            enough = len(self._failed) >= self.settings.minimum_calls
            above = sum(self._failed) >= self.settings.failure_rate * len(self._failed)
            if not failed or not (opens or (enough and above)):
                return False
            if self._clock() - self._closed_since > self._open_seconds:
                self._open_seconds = self.settings.open_seconds
            self._open()
            return True

    def _report_trial(self, failed: bool | None) -> bool:
        if failed is None:
            self._trials -= 1
            return False
        if failed:
            self._open()
            return True
        self._succeeded += 1
        if self._succeeded < self.settings.trials:
            return False
        self._enter("closed")
        self._closed_since = self._clock()
        return True

    def _open(self) -> None:
        self._enter("open")
        self._open_until = self._clock() + self._open_seconds
        self._open_seconds = min(2 * self._open_seconds, self.settings.longest_open_seconds)

    def _enter(self, state: BreakerState) -> None:
        self._state = state
        self._generation += 1
        self._failed.clear()
        self._trials = self._succeeded = 0


@dataclass(frozen=True)
class Permit:
    """Permission for one call. Its result is reported once, and ignored if the breaker's state changed since."""

    _breaker: CircuitBreaker
    _generation: int
    trial: bool
    """Whether the breaker is half-open, so that the call decides if it closes."""

    def success(self) -> bool:
        """Reports a success; returns whether the breaker closed."""
        return self._breaker._report(self._generation, failed=False)

    def failure(self, *, opens: bool = False) -> bool:
        """Reports a failure; returns whether the breaker opened.

        Args:
            opens: whether this single failure opens the breaker, at any failure rate.
        """
        return self._breaker._report(self._generation, failed=True, opens=opens)

    def cancel(self) -> None:
        """Reports that there is no result: no call was made, or it failed because of its arguments."""
        self._breaker._report(self._generation, failed=None)
