"""One of several that can speak: when it is loaded, who uses it, and why it is out of use."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from numpy.typing import ArrayLike

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.health.probe import NoProbeError, probe
from wavernn_trt.runtime.vocoder import Vocoder

logger = logging.getLogger(__name__)

ProblemKind = Literal["load failed", "probe failed", "damaged output", "executor failed"]
"""What put a candidate out of use."""

FIRST_RETRY_SECONDS = 30.0
"""Until a quarantined candidate is tried again; doubled each time that it fails."""
LAST_RETRY_SECONDS = 1800.0
"""The longest time between two tries."""

Files = tuple[tuple[str, int, int], ...]


class Speaker(Protocol):
    """What a candidate loads: a `Vocoder`, or what can be called like one. Any number of threads use it."""

    @property
    def sample_rate(self) -> int:
        """Hz, of what comes out."""

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> FloatArray:
        """See `wavernn_trt.runtime.vocoder.Vocoder.vocode`."""

    def close(self) -> None:
        """Gives back what it holds."""


@dataclass(frozen=True)
class Candidate:
    """Something that can speak, once loaded."""

    name: str
    """How events and answers call it."""
    load: Callable[[], Speaker]
    """Loads it; files are checked here (`Vocoder.load` does). What it raises is why the candidate is not usable."""
    folder: Path | None = None
    """The model directory: when its files change, a quarantined candidate is tried at once."""
    degraded: bool = False
    """Whether it sounds worse than the model does."""


@dataclass(frozen=True)
class Problem:
    """Why a candidate is out of use."""

    kind: ProblemKind
    message: str


class Loaded:
    """A speaker and how many use it; it is closed when it was retired and nobody does."""

    def __init__(self, speaker: Speaker) -> None:
        """Nobody uses it yet."""
        self.speaker = speaker
        self.users = 0
        self.retired = False


class Standing:
    """A candidate's state; any number of threads."""

    def __init__(self, candidate: Candidate, clock: Callable[[], float] = time.monotonic) -> None:
        """Not loaded yet.

        Args:
            candidate: what may be loaded.
            clock: seconds, for what is tried again.
        """
        self.candidate = candidate
        self._clock = clock
        self._changed = threading.Condition()
        self._busy = False  # somebody loads it
        self._loaded: Loaded | None = None
        self._problem: Problem | None = None
        self._well_since = clock()
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._files: Files | None = None

    @property
    def problem(self) -> Problem | None:
        """Why it is quarantined, if it is."""
        with self._changed:
            return self._problem

    @property
    def loaded(self) -> bool:
        """Whether it can be used at once."""
        with self._changed:
            return self._loaded is not None

    def enter(self) -> tuple[Loaded | None, Problem | None]:
        """Begins to use it; loads it, if nobody has, and waits for who does.

        Returns:
            What is used until `leave` is called, or ``None`` if it is quarantined; and the problem, if it was found
            just now.
        """
        with self._changed:
            while self._busy and self._problem is None:
                self._changed.wait()
            if self._problem is not None:
                return None, None
            if self._loaded is not None:
                self._loaded.users += 1
                return self._loaded, None
            self._busy = True
        problem = self._try(users=1)
        with self._changed:
            return (None, problem) if problem is not None else (self._loaded, None)

    def leave(self, loaded: Loaded) -> None:
        """Ends a use."""
        with self._changed:
            loaded.users -= 1
            idle = loaded.retired and not loaded.users
        if idle:
            _dispose(loaded.speaker)

    def quarantine(self, loaded: Loaded, problem: Problem) -> bool:
        """Puts it out of use, for a problem of what ``loaded`` is; returns whether nobody else had."""
        with self._changed:
            if self._loaded is not loaded:
                return False
            self._loaded = None
            loaded.retired = True
            idle = not loaded.users
            self._put_off(problem)
            self._files = self._look()
        if idle:
            _dispose(loaded.speaker)
        return True

    def due(self) -> bool:
        """Whether it is quarantined, and worth another try: time has passed, or its files have changed."""
        with self._changed:
            if self._problem is None or self._busy:
                return False
            return self._clock() >= self._retry_at or self._files != self._look()

    def claim(self) -> bool:
        """Whether the caller, and nobody else, is to call `retry`: it is quarantined, and nobody loads it."""
        with self._changed:
            if self._problem is None or self._busy:
                return False
            self._busy = True
            return True

    def retry(self) -> Problem | None:
        """Loads and probes it again, after `claim`; returns what is wrong, or ``None`` if it is taken back."""
        return self._try(users=0)

    def examine(self) -> Problem | None:
        """Probes it, if it is loaded; returns what is wrong."""
        with self._changed:
            loaded = self._loaded
            if loaded is None:
                return None
            loaded.users += 1
        try:
            problem = self._probe(loaded.speaker)
            if problem is not None and not self.quarantine(loaded, problem):
                return None
            return problem
        finally:
            self.leave(loaded)

    def settle(self) -> None:
        """Waits until nobody loads it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)

    def close(self) -> None:
        """Closes it, when the last has left it."""
        with self._changed:
            loaded, self._loaded = self._loaded, None
            idle = loaded is not None and not loaded.users
            if loaded is not None:
                loaded.retired = True
        if idle and loaded is not None:
            loaded.speaker.close()

    def _try(self, users: int) -> Problem | None:
        loaded: Loaded | None = None
        # Seen before anything is read: what changes meanwhile is worth another look.
        files = self._look()
        problem: Problem | None = Problem("load failed", "interrupted")
        try:
            loaded, problem = self._load()
        finally:
            with self._changed:
                self._busy = False
                self._files = files
                if loaded is None:
                    self._put_off(problem or Problem("load failed", "nothing was loaded"))
                else:
                    loaded.users = users
                    self._loaded, self._problem = loaded, None
                    self._well_since = self._clock()
                self._changed.notify_all()
        return problem

    def _load(self) -> tuple[Loaded | None, Problem | None]:
        try:
            speaker = self.candidate.load()
        except Exception as error:  # a candidate that cannot be loaded is out of use, whatever it raised
            return None, Problem("load failed", str(error) or type(error).__name__)
        try:
            problem = self._probe(speaker)
        except BaseException:
            speaker.close()
            raise
        if problem is not None:
            _dispose(speaker)
            return None, problem
        return Loaded(speaker), None

    def _probe(self, speaker: Speaker) -> Problem | None:
        if not isinstance(speaker, Vocoder):
            return None
        try:
            result = probe(speaker)
        except NoProbeError as error:
            logger.warning("%s is used without a probe: %s", self.candidate.name, error)
            return None
        return None if result.passed else Problem("probe failed", result.reason)

    def _put_off(self, problem: Problem) -> None:
        """Notes a problem, and when to try again; called with the lock."""
        now = self._clock()
        if self._problem is None and now - self._well_since > self._retry_seconds:
            self._retry_seconds = FIRST_RETRY_SECONDS  # it did well for longer than it was waited for
            self._retry_at = now + self._retry_seconds
        else:
            self._retry_at = now + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
        self._problem = problem

    def _look(self) -> Files | None:
        """Names, sizes and times of the model directory's files."""
        if self.candidate.folder is None:
            return None
        try:
            with os.scandir(self.candidate.folder) as entries:
                return tuple(
                    sorted((entry.name, (stat := entry.stat()).st_size, stat.st_mtime_ns) for entry in entries)
                )
        except OSError:
            return ()


def _dispose(speaker: Speaker) -> None:
    """Closes what is damaged, in a thread of its own: one that hangs takes its time, and nobody waits for it."""
    threading.Thread(target=speaker.close, name="wavernn-trt disposal", daemon=True).start()
