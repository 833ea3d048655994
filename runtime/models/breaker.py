"""A circuit breaker: stops calls to something that fails too often, and lets trial calls through after a while."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wavernn_trt.runtime.errors import VocoderError

BreakerState = Literal["closed", "open", "half-open"]


@dataclass(frozen=True)
class BreakerSettings:
    """When a breaker opens, and how it closes again."""

    window: int = 20
    """Calls, the most recent, over which the failure rate is taken."""
    failure_rate: float = 0.5
    """Share of failed calls in the window from which on the breaker opens; above 0, 1 at most."""
    minimum_calls: int = 10
    """Calls in the window before the rate counts; ``window`` at most."""
    open_seconds: float = 30.0
    """Seconds until trials are allowed. Doubled each time that a trial fails, or that the breaker opens again after
    having been closed for less than that."""
    longest_open_seconds: float = 1800.0
    """Upper bound of that; equal to ``open_seconds``, the time is never doubled."""
    trials: int = 1
    """Calls that have to succeed while half-open before the breaker closes; as many may be under way at a time."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            VocoderError: a value is out of range.
        """
        for name in ("window", "minimum_calls", "trials"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise VocoderError(f"{name}: found {value!r}, expected a positive integer")
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
    """Counts successes and failures of calls; any number of threads may use it, and no method blocks.

    Closed, it permits every call. When enough of the recent calls failed it opens, and permits none for a while. Then
    it is half-open and permits a few trials: if all succeed it closes, with the first failure it opens again.
    """

    def __init__(self, settings: BreakerSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts closed.

        Args:
            settings: ``None`` are the defaults.
            clock: seconds.
        """
        self.settings = BreakerSettings() if settings is None else settings
        self._clock = clock
        self._lock = threading.Lock()
        self._state: BreakerState = "closed"
        self._generation = 0  # of the state: results of calls permitted in an earlier one are ignored
        self._failed: deque[bool] = deque(maxlen=self.settings.window)
        self._closed_since = clock()
        self._open_seconds = self.settings.open_seconds
        self._open_until = 0.0
        self._trials = 0  # under way or succeeded
        self._succeeded = 0

    @property
    def state(self) -> BreakerState:
        """``open`` until the first trial is permitted, then ``half-open``."""
        with self._lock:
            return self._state

    def permit(self) -> Permit | None:
        """Permits a call, whose result is then reported to the permit; ``None`` if it must not be made."""
        with self._lock:
            if self._state == "open" and self._clock() >= self._open_until:
                self._enter("half-open")
            if self._state == "half-open" and self._trials < self.settings.trials:
                self._trials += 1
                return Permit(self, self._generation, trial=True)
            return Permit(self, self._generation, trial=False) if self._state == "closed" else None

    def end_open_time(self) -> None:
        """Permits trials at once, where the breaker is open; for when the cause is known to have changed."""
        with self._lock:
            self._open_until = -math.inf

    def _report(self, generation: int, *, failed: bool | None, opens: bool = False) -> bool:
        """Counts a result; returns whether it changed the state."""
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


class Permit:
    """The permission for one call, whose result is reported once; it is ignored if the state has changed meanwhile."""

    def __init__(self, breaker: CircuitBreaker, generation: int, *, trial: bool) -> None:
        """Made by `CircuitBreaker.permit`."""
        self.trial = trial
        """Whether the breaker is half-open, and the call decides on closing it."""
        self._breaker = breaker
        self._generation = generation

    def success(self) -> bool:
        """Reports a success; returns whether the breaker closed with it."""
        return self._breaker._report(self._generation, failed=False)

    def failure(self, *, opens: bool = False) -> bool:
        """Reports a failure; returns whether the breaker opened with it.

        Args:
            opens: whether this failure alone is reason enough, whatever the rate.
        """
        return self._breaker._report(self._generation, failed=True, opens=opens)

    def cancel(self) -> None:
        """Reports that the call says nothing: it was not made, or failed by the caller's mistake."""
        self._breaker._report(self._generation, failed=None)
