"""The shipped voice on an executor that tests can hold, and a clock that they move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Chunk, State
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.scheduling import conditioning_threads, in_flight, lane_worker, scheduler
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""


class HeldExecutor(OnnxRuntimeExecutor):
    """The executor of ONNX Runtime; the test decides when chunks begin and which fail."""

    def __init__(self, directory: ModelDirectory) -> None:
        super().__init__(directory, threads=1)
        self._changed = threading.Condition()
        self._allowed: int | None = None
        self.rows: list[int] = []  # streams of each begun chunk
        self.failures: dict[int, BaseException] = {}  # by number of the chunk
        self.conditioned = 0

    def hold(self) -> None:
        """Lets no further chunk begin."""
        with self._changed:
            self._allowed = len(self.rows)

    def allow(self, chunks: int | None = None) -> None:
        """Lets a number of further chunks begin, or all."""
        with self._changed:
            self._allowed = None if chunks is None or self._allowed is None else self._allowed + chunks
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE)

    def condition(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = super().condition(mel)
        with self._changed:
            self.conditioned += 1
            self._changed.notify_all()
        return rows

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        with self._changed:
            number = len(self.rows)
            self.rows.append(len(chunk.uniforms))
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed is None or number < self._allowed, PATIENCE)
        if number in self.failures:
            raise self.failures[number]
        return super().decode(chunk, state)


class Clock:
    """The scheduler's clock, which a test moves forward; a call hangs only when the test decides."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (conditioning_threads, in_flight, lane_worker, scheduler):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture(scope="session")
def directory() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture
def held(directory: ModelDirectory) -> Iterator[HeldExecutor]:
    executor = HeldExecutor(directory)
    yield executor
    executor.allow()


@pytest.fixture
def make_vocoder(directory: ModelDirectory, held: HeldExecutor) -> Iterator[Callable[..., Vocoder]]:
    """A function (batch, limits' fields) -> a vocoder on the held executor, closed at the end."""
    made: list[Vocoder] = []

    def make(batch: int = 1, lanes: int = 1, **limits: Any) -> Vocoder:
        opened = LoadedModel.of(directory, held)
        made.append(Vocoder(opened, batch, SchedulerLimits(lanes=lanes, **limits)))
        return made[-1]

    yield make
    held.allow()
    for vocoder in made:
        vocoder.close()


@pytest.fixture(scope="session")
def mel_of(directory: ModelDirectory) -> Callable[..., NDArray[np.float32]]:
    """A function (chunks, seed) -> a mel of this number of chunks of 20 ms."""

    def make(chunks: int, seed: int = 0) -> NDArray[np.float32]:
        audio = directory.audio
        frames = chunks * round(audio.sample_rate * 0.02) // audio.hop_length
        low, high = audio.mel_range
        return np.random.default_rng(seed).uniform(low, high, (audio.n_mels, frames)).astype(np.float32)

    return make
