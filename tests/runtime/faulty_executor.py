"""Faults at the executor's boundary: a real executor, whose lanes go wrong at a chosen chunk."""

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
    """What a faulty executor raises: no kind that the runtime knows, like a driver's own."""


@dataclass
class FaultyExecutor:
    """Does what ``inner`` does, until a chunk comes that it fails at.

    Chunks are counted from 0 as they are submitted, over all lanes. A fault that begins stays, for every lane, until
    `repair` is called, or until it has struck ``times`` times.
    """

    inner: Executor
    raises_at: int | None = None
    """The chunk from which on `Lane.submit` (see ``in_collect``) raises an `InjectedFault`."""
    hangs_at: int | None = None
    """The chunk from which on it does not return before ``released`` is set; then it goes on as if nothing had been."""
    constant_from: int | None = None
    """The chunk from which on all samples are ``constant``."""
    nan_from: int | None = None
    """The chunk from which on all samples are NaN, of models whose samples are numbers."""
    constant: float = 0
    times: int | None = None
    """Chunks that a fault strikes; ``None`` is all that come."""
    in_collect: bool = False
    """Whether to raise or hang in `Lane.collect` rather than in `Lane.submit`."""
    condition_raises: bool = False
    """Whether `condition` raises."""
    released: threading.Event = field(default_factory=threading.Event)
    """Lets whoever hangs go on."""
    hanging: threading.Event = field(default_factory=threading.Event)
    """Set when somebody begins to hang."""
    chunks: int = 0
    """Submitted so far."""
    opened: int = 0
    """Lanes so far."""
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
            raise InjectedFault("the conditioner was told to fail")
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
        """From now on it is the inner executor; whoever hangs goes on."""
        with self.lock:
            self.raises_at = self.hangs_at = self.constant_from = self.nan_from = None
            self.condition_raises = False
        self.released.set()

    def begin_chunk(self) -> int:
        with self.lock:
            self.chunks += 1
            return self.chunks - 1

    def strikes(self, chunk: int, first: int | None) -> bool:
        """Whether a fault that begins with chunk ``first`` strikes this one; counts it."""
        with self.lock:
            if first is None or chunk < first or (self.times is not None and self.struck >= self.times):
                return False
            self.struck += 1
            return True

    def stumble(self, chunk: int) -> None:
        """Raises or hangs, where it is time to."""
        if self.strikes(chunk, self.raises_at):
            raise InjectedFault(f"told to fail at chunk {chunk}")
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
            self._executor.stumble(number)
        self._inner.submit(chunk, slots, entering)
        self._submitted.append(number)

    def collect(self) -> NDArray[Any]:
        number = self._submitted.pop(0)
        if self._executor.in_collect:
            self._executor.stumble(number)
        samples = self._inner.collect()
        if self._executor.strikes(number, self._executor.constant_from):
            samples = np.full_like(samples, self._executor.constant)
        if self._executor.strikes(number, self._executor.nan_from):
            samples = np.full_like(samples, np.nan)
        return samples
