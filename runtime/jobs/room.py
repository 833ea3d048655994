"""How much of a run is under way at a time: what is read ahead, decoded, and written behind."""

from __future__ import annotations

import threading

_ROUNDS = 4
"""Files under way, in times of what is decoded together: as many again are conditioned, are read, and are written, so
that neither a slow disk nor a long file among short ones leaves a slot empty."""
_FEWEST = 16
"""Files under way at least: a lane of one slot may still meet sixteen bad or finished files in a row."""
_MOST_BYTES = 2**30
"""Mels and waveforms under way. A file that takes more is vocoded alone. The file that is being read comes on top of
it, for its length is not known before; and so does conditioning, which `SchedulerLimits` bounds."""


class Room:
    """Counts files and bytes; a thread takes, others give back."""

    def __init__(self, slots: int) -> None:
        """Begins empty.

        Args:
            slots: utterances that are decoded together.
        """
        self.files = max(_FEWEST, _ROUNDS * slots)
        """The most that are under way."""
        self._changed = threading.Condition()
        self._taken = 0
        self._bytes = 0
        self._closed = False

    def enter(self) -> bool:
        """Waits for room for another file, and takes it; returns whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._taken < self.files)
            self._taken += 1
            return not self._closed

    def grow(self, size: int) -> bool:
        """Waits for room for a file's bytes, and takes it; returns whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._bytes or self._bytes + size <= _MOST_BYTES)
            self._bytes += size
            return not self._closed

    def leave(self, size: int = 0) -> None:
        """Gives back a file's place, and its bytes."""
        with self._changed:
            self._taken -= 1
            self._bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Lets nothing more in, and wakes who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
