"""Turns Ctrl-C and SIGTERM into requests to stop, so that a run can finish writing its results."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wavernn_trt.runtime.jobs.result import Stop

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where a run cannot check for a request to stop."""


class Interruption:
    """The request to stop, and the signal that caused it, if any."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.signal: signal.Signals | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt  # the second signal ends the run at once
        self.signal = signal.Signals(number)
        self.stop.request()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handles the signals in a context: the first requests a stop, the second raises KeyboardInterrupt.

    Signals that this process ignores, as for a background job of a shell, stay ignored.
    """
    interruption = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, interruption._handle)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
