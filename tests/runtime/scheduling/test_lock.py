"""The scheduler's state changes only while its lock is held, also under failures and cancellations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.conditioning_threads import ConditioningThreads
from wavernn_trt.runtime.scheduling.in_flight import InFlight
from wavernn_trt.runtime.scheduling.lane_worker import LaneWorker
from wavernn_trt.runtime.scheduling.scheduler import Scheduler
from wavernn_trt.runtime.scheduling.statistics import Counters, Durations, Totals
from wavernn_trt.runtime.scheduling.utterance import Utterance
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
PATIENCE = 60.0

GUARDED: dict[type, set[str] | None] = {
    InFlight: None,
    Counters: None,
    Durations: None,
    Totals: None,
    ConditioningThreads: {"failures"},
    LaneWorker: {"loop", "busy_since", "abandoned"},
    Scheduler: {"_threads"},
    Utterance: {"attempts", "held_bytes", "conditioning"},
}
"""Attributes that the lock guards, all with ``None``."""


class Watch:
    """Records assignments to guarded attributes by threads without the lock."""

    def __init__(self) -> None:
        self.lock: Any = None
        self.seen: set[str] = set()
        self.unlocked: set[str] = set()

    def assigned(self, kind: type, name: str) -> None:
        guarded = GUARDED[kind]
        if self.lock is not None and (guarded is None or name in guarded):
            self.seen.add(f"{kind.__name__}.{name}")
            if not self.lock._is_owned():
                self.unlocked.add(f"{kind.__name__}.{name} in {threading.current_thread().name}")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch()

    def watched(kind: type) -> Callable[[Any, str, Any], None]:
        def assign(self: Any, name: str, value: Any) -> None:
            if name in vars(self):  # not the first assignment, in __init__
                watch.assigned(kind, name)
            object.__setattr__(self, name, value)

        return assign

    for kind in GUARDED:
        monkeypatch.setattr(kind, "__setattr__", watched(kind), raising=False)
    yield watch
    watch.lock = None


def test_the_scheduler_s_state_changes_only_with_its_lock(
    watch: Watch, make_vocoder: Callable[..., Vocoder], held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = make_vocoder(2, lanes=2)
    watch.lock = vocoder._scheduler._flight.lock
    held.failures = {2: RuntimeError("of a lane")}
    tickets = [vocoder.submit(Request(mel_of(4, seed), seed, fold=[None, 500][seed % 2])) for seed in range(8)]
    tickets[3].cancel()
    assert not wait(tickets, PATIENCE).not_done

    def fails(mel: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError("of the conditioner")

    monkeypatch.setattr(held, "condition", fails)
    assert not wait([vocoder.submit(Request(mel_of(1))) for _ in range(3)], PATIENCE).not_done
    assert vocoder.state == "broken"
    vocoder.close()
    assert watch.unlocked == set()
    changed = {
        "ConditioningThreads.failures", "Counters.lane_failures", "InFlight.broken", "InFlight.closed",
        "InFlight.conditioning_bytes", "LaneWorker.abandoned", "LaneWorker.busy_since", "LaneWorker.loop",
        "Scheduler._threads", "Totals.cancelled", "Totals.chunks", "Totals.failed", "Totals.lost_lanes",
        "Totals.restarted", "Utterance.attempts", "Utterance.conditioning", "Utterance.held_bytes",
    }  # fmt: skip
    assert changed <= watch.seen
