"""Ctrl-C and SIGTERM as requests to stop, after which a run still writes what is decoded."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wavernn_trt.runtime.jobs.result import Stop

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ends a run that cannot notice a request to stop."""


class Interruption:
    """The signal that came, if any, and the request to stop that it makes."""

    def __init__(self) -> None:
        """None yet."""
        self.stop = Stop()
        self.signal: signal.Signals | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt  # the second signal ends the run at once
        self.signal = signal.Signals(number)
        self.stop.request()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Takes the signals for as long as the context lasts: the first asks for the end, the second enforces it.

    Signals that this process ignores stay ignored, as those of a shell's job in the background.
    """
    interruption = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, interruption._handle)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
