"""A pool of models: loads are shared and have a time limit, and every loaded model is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from manual_clock import Clock

from wavernn_trt.runtime.models import lease as lease_module
from wavernn_trt.runtime.models.lease import Lease, PooledModel
from wavernn_trt.runtime.models.pool import ModelPool

PATIENCE = 60.0


@dataclass
class Model:
    """A model that records the thread that closes it."""

    closed_by: Future[threading.Thread] = field(default_factory=Future)

    def close(self) -> None:
        self.closed_by.set_result(threading.current_thread())


@dataclass
class Source:
    """Loads models while the gate is open."""

    loaded: list[Model] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> PooledModel[str, Model]:
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self.loaded.append(Model())
        return PooledModel("a", self.loaded[-1], Path("a"), bytes=1)


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.gate.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> ModelPool[str, Model]:
    return ModelPool("the pool", load_seconds=PATIENCE, clock=clock)


@pytest.fixture
def requests() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def load(pool: ModelPool[str, Model], source: Source) -> Lease[str, Model]:
    return pool.load("a", Path("a"), 1, source)


def test_a_model_that_is_retired_at_once_goes_to_its_waiters_and_is_closed_after_the_last(
    pool: ModelPool[str, Model], source: Source, requests: ThreadPoolExecutor
) -> None:
    def retire() -> None:
        for pooled in list(pool.models.values()):
            pool.retire(pooled)

    pool.on_change = retire  # runs with the lock held, before a waiter can take the model
    waiting = [requests.submit(load, pool, source) for _ in range(3)]
    while pool.loads.get("a") is None or pool.loads["a"].waiting < 3:
        pass
    source.gate.set()
    leases = [one.result(PATIENCE) for one in waiting]
    (model,) = source.loaded
    for lease in leases:
        assert lease.vocoder is model
        assert not model.closed_by.done()
        lease.close()
    model.closed_by.result(PATIENCE)


def test_a_discarded_load_is_for_its_waiters_only(
    pool: ModelPool[str, Model], source: Source, requests: ThreadPoolExecutor
) -> None:
    waiting = requests.submit(load, pool, source)
    assert source.begun.acquire(timeout=PATIENCE)
    with pool.changing():
        del pool.loads["a"]
    other = requests.submit(load, pool, source)
    assert source.begun.acquire(timeout=PATIENCE)
    source.gate.set()
    first, second = waiting.result(PATIENCE), other.result(PATIENCE)
    assert first.vocoder is not second.vocoder
    first.close()
    second.close()
    closed = [model.closed_by for model in source.loaded]
    with load(pool, source) as third:
        assert third.vocoder in source.loaded
    pool.close()
    for one in closed:
        one.result(PATIENCE)


def test_a_model_is_closed_and_its_memory_freed_in_the_background(
    pool: ModelPool[str, Model], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: Future[threading.Thread] = Future()
    monkeypatch.setattr(lease_module, "give_back_memory", lambda: given_back.set_result(threading.current_thread()))
    source.gate.set()
    with load(pool, source), pool.changing():
        pool.retire(pool.models["a"])
    assert source.loaded[0].closed_by.result(PATIENCE) is given_back.result(PATIENCE)
    assert given_back.result() is not threading.current_thread()


def test_if_no_thread_can_be_started_the_request_does_the_work(
    pool: ModelPool[str, Model], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    source.gate.set()
    load(pool, source).close()
    pool.close()
    assert source.loaded[0].closed_by.result(0) is threading.current_thread()
