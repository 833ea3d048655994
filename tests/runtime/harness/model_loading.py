"""Loading of models for tests of model caches: a loader that records its calls, and small helpers."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.export.model_directory import CONFIG, write_manifest
from wavernn_trt.runtime.models.cache import ModelCache
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

NAMES = ("alto", "bass", "cello", "drum")
"""Models of the fixture ``root``."""
CONDITIONING = 2**20
SIZE = estimated_bytes(SMALL_VOICE) + CONDITIONING
"""Bytes of a model in a cache."""
MEL = np.load(SAMPLE_MEL)[:, :1]
PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""


class Loader:
    """Loads models and records it; a load waits for the gate of its model, if there is one."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.closed: Counter[str] = Counter()
        self.changed = threading.Condition()
        self.gates: dict[str, threading.Event] = {}
        self.inside: Callable[[Path], None] = lambda path: None

    def __call__(self, dir: Path, backend: str, *, precision: Any) -> Vocoder:
        name = dir.relative_to(dir.parents[1]).parts[0]
        self.begun.append(name)
        if name in self.gates:
            assert self.gates[name].wait(PATIENCE)
        limits = SchedulerLimits(conditioning_bytes=CONDITIONING)
        vocoder = Vocoder.load(dir, "onnxruntime", threads=1, precision=precision, limits=limits)
        self.inside(dir)
        close = vocoder.close

        def count() -> None:
            close()
            with self.changed:
                self.closed.update([name])
                self.changed.notify_all()

        vocoder.close = count  # type: ignore[method-assign]
        return vocoder

    def wait_for_closed(self, **expected: int) -> None:
        """Waits until exactly these models were closed in the background, this number of times."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.closed == expected, PATIENCE), self.closed

    def gate(self, name: str) -> threading.Event:
        return self.gates.setdefault(name, threading.Event())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline


def in_memory(cache: ModelCache) -> set[str]:
    return {model.key.name for model in cache.statistics().models}


def loading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("wavernn-trt load of")]


def use(cache: ModelCache, *names: str) -> None:
    for name in names:
        with cache.borrow(name):
            pass


def export_again(model: Path) -> None:
    config = json.loads((model / CONFIG).read_text())
    config["source"]["exported"] = config["source"].get("exported", 0) + 1
    (model / CONFIG).write_text(json.dumps(config))
    write_manifest(model)
