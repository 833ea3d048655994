"""A real executor whose lanes fail, hang or return wrong samples from a chosen chunk on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.executors.protocol import Chunk, Executor, FloatArray, Lane


class InjectedFault(Exception):
    """A type of error that the runtime does not know, like those of drivers."""


@dataclass
class FaultyExecutor:
    """Behaves like ``inner`` until a fault begins.

    Chunks are counted from 0 as they are submitted, over all lanes. A fault lasts, in every lane, until `repair` is
    called, or for ``times`` chunks.
    """

    inner: Executor
    raises_at: int | None = None
    """The first chunk whose `Lane.submit` (see ``in_collect``) raises an `InjectedFault`."""
    hangs_at: int | None = None
    """The first chunk that does not return before ``released`` is set."""
    constant_from: int | None = None
    """The first chunk whose samples are all ``constant``."""
    nan_from: int | None = None
    """The first chunk whose samples are all NaN, for models whose samples are numbers."""
    constant: float = 0
    times: int | None = None
    """Number of chunks with a fault; ``None``: no limit."""
    in_collect: bool = False
    """Whether to raise or hang in `Lane.collect` rather than in `Lane.submit`."""
    condition_raises: bool = False
    """Whether `condition` raises."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends all hanging calls."""
    hanging: threading.Event = field(default_factory=threading.Event)
    """Set when a call begins to hang."""
    chunks: int = 0
    """Chunks submitted so far."""
    opened: int = 0
    """Lanes opened so far."""
    struck: int = 0
    """Faults so far."""
    lock: Any = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def slots(self) -> int | None:
        return self.inner.slots

    @property
    def steps(self) -> int | None:
        return self.inner.steps

    @property
    def lanes(self) -> int:
        return self.inner.lanes

    @property
    def conditioners(self) -> int:
        return self.inner.conditioners

    def condition(self, mel: FloatArray) -> FloatArray:
        if self.condition_raises and self.strikes(0, 0):
            raise InjectedFault("injected in the conditioner")
        return self.inner.condition(mel)

    @contextmanager
    def lane(self, streams: int) -> Iterator[Lane]:
        with self.inner.lane(streams) as lane:
            with self.lock:
                self.opened += 1
            yield FaultyLane(self, lane)

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.inner.teacher_forced(chunk, previous, hidden)

    def repair(self) -> None:
        """Ends all faults and hanging calls."""
        with self.lock:
            self.raises_at = self.hangs_at = self.constant_from = self.nan_from = None
            self.condition_raises = False
        self.released.set()

    def begin_chunk(self) -> int:
        with self.lock:
            self.chunks += 1
            return self.chunks - 1

    def strikes(self, chunk: int, first: int | None) -> bool:
        """Returns whether a fault that begins with chunk ``first`` applies to this one, and counts it."""
        with self.lock:
            if first is None or chunk < first or (self.times is not None and self.struck >= self.times):
                return False
            self.struck += 1
            return True

    def fail(self, chunk: int) -> None:
        """Raises or hangs if a fault applies to this chunk."""
        if self.strikes(chunk, self.raises_at):
            raise InjectedFault(f"injected at chunk {chunk}")
        if self.strikes(chunk, self.hangs_at):
            self.hanging.set()
            self.released.wait()


class FaultyLane:
    def __init__(self, executor: FaultyExecutor, inner: Lane) -> None:
        self._executor, self._inner = executor, inner
        self._submitted: list[int] = []

    @property
    def slots(self) -> int:
        return self._inner.slots

    @property
    def ahead(self) -> int:
        return self._inner.ahead

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        number = self._executor.begin_chunk()
        if not self._executor.in_collect:
            self._executor.fail(number)
        self._inner.submit(chunk, slots, entering)
        self._submitted.append(number)

    def collect(self) -> NDArray[Any]:
        number = self._submitted.pop(0)
        if self._executor.in_collect:
            self._executor.fail(number)
        samples = self._inner.collect()
        if self._executor.strikes(number, self._executor.constant_from):
            samples = np.full_like(samples, self._executor.constant)
        if self._executor.strikes(number, self._executor.nan_from):
            samples = np.full_like(samples, np.nan)
        return samples
