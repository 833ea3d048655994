"""Candidates of standby vocoders: plain, faulty and slow ones; and a listener for events."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty_executor as faulty
import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.errors import ExecutorError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.models.standby import Candidate, StandbyEvent, StandbyVocoder
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

WAIT = 60.0
"""Seconds after which a test that waits has failed."""
FAST = SchedulerLimits(hang_seconds=0.3)
PROBE_CHUNKS = 2
"""Chunks of the small model's probe: it has 384 steps, and a chunk 320."""


@dataclass
class Listener:
    """Records events; a test can wait for one."""

    events: list[StandbyEvent] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: StandbyEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, kind: str) -> StandbyEvent:
        def found() -> StandbyEvent | None:
            return next((event for event in self.events if event.kind == kind), None)

        with self.changed:
            event = self.changed.wait_for(found, timeout=WAIT)
        assert event is not None, f"no event {kind!r} came"
        return event

    @property
    def kinds(self) -> list[tuple[str, str, str | None]]:
        return [(event.candidate, event.kind, event.answered_by) for event in self.events]


def plain(path: Path, name: str = "standby") -> Candidate:
    return Candidate(name, lambda: Vocoder.load(path, "onnxruntime", threads=1), path)


def faulty_candidate(directory: ModelDirectory, name: str = "first", **fault: Any) -> tuple[Candidate, Any]:
    """A candidate whose executor has a fault, and that executor."""
    executor = faulty.FaultyExecutor(
        load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor, **fault
    )

    def load() -> Vocoder:
        opened = LoadedModel.of(directory, executor)
        return Vocoder(opened, limits=FAST)

    return Candidate(name, load, directory.path), executor


def alone(path: Path, mel: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    with Vocoder.load(path, "onnxruntime", threads=1) as vocoder:
        return vocoder.vocode(mel, seed=seed)


def settled(standbys: StandbyVocoder) -> None:
    """Waits until no candidate is being tried again."""
    for thread in threading.enumerate():
        if thread.name.startswith("wavernn-trt retry"):
            thread.join(WAIT)
            assert not thread.is_alive()


@dataclass
class Slow:
    """A vocoder that waits for ``go_on``, fails with seed 13, and shows whether it is closed."""

    vocoder: Vocoder
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def sample_rate(self) -> int:
        return self.vocoder.sample_rate

    def vocode(self, mel: Any, *, seed: int = 0, **others: Any) -> NDArray[np.float32]:
        if seed == 13:
            raise ExecutorError("seed 13")
        self.entered.set()
        assert self.go_on.wait(WAIT)
        assert not self.closed.is_set()
        return self.vocoder.vocode(mel, seed=seed)

    def close(self) -> None:
        self.closed.set()
        self.vocoder.close()
