"""Threads that work in the background while there is something to do, and end when there is not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

Work = Callable[[], None]


class Background:
    """A bounded number of threads. None is left over when there is no work, so nobody has to end them."""

    def __init__(self, lock: threading.Lock, find: Callable[[], Work | None], most: int) -> None:
        """Starts none.

        Args:
            lock: is held while ``find`` is called, and by who calls `wake`.
            find: gives the next piece of work, which is then done without the lock, or ``None``.
            most: threads at a time.
        """
        self._lock = lock
        self._find = find
        self._most = most
        self._threads: set[threading.Thread] = set()

    def wake(self) -> None:
        """Has one more thread look for work, unless as many as may be do."""
        if len(self._threads) >= self._most:
            return
        thread = threading.Thread(target=self._run, name="wavernn-trt preheating", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no thread is to be had: the interpreter ends, or the system has too many
            self._threads.discard(thread)
            logger.warning("nothing is preheated: %s", error)

    def join(self) -> None:
        """Waits for the threads to end; called without the lock, when no work is found any more."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    work = self._find()
                    if work is None:
                        # Under the lock: whoever has work after this starts another thread.
                        self._threads.discard(threading.current_thread())
                        return
                work()
        except BaseException:
            with self._lock:
                self._threads.discard(threading.current_thread())
            raise
