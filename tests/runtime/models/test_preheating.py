"""Preheating: the heat of requests decays, and the most requested models are loaded in the background."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from manual_clock import Clock
from model_loading import MEL, NAMES, PATIENCE, Loader, in_memory, loading, until, use

from wavernn_trt.export.model_directory import WEIGHTS, ModelDirectoryError
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.models.cache import ModelCache
from wavernn_trt.runtime.models.preheating import AccessHeat
from wavernn_trt.runtime.models.source import ModelKey

MakeCache = Callable[..., ModelCache]
ALTO, BASS = ModelKey("alto", "1"), ModelKey("bass", "1")


def test_a_request_counts_half_after_the_half_life() -> None:
    heat = AccessHeat(10, clock := Clock())
    for clock.now in (0.0, 0.0, 10.0):
        heat.add(ALTO, Path("alto"), 7)
    assert heat.counts() == {ALTO: pytest.approx(2.0)}
    clock.now = 20.0
    heat.add(BASS, Path("bass"), 8)
    assert heat.counts() == pytest.approx({ALTO: 1.0, BASS: 1.0})
    clock.now = 1e9
    assert heat.counts() == {ALTO: 0.0, BASS: 0.0}


def test_heat_keeps_the_place_of_a_model_until_it_is_forgotten() -> None:
    heat = AccessHeat(10, Clock())
    heat.add(ALTO, Path("alto"), 7)
    heat.resize(ALTO, 9)
    heat.resize(BASS, 9)
    assert heat.place(ALTO) == (Path("alto"), 9)
    heat.forget(ALTO)
    heat.forget(BASS)
    assert heat.counts() == {}


def test_heat_keeps_the_most_requested_of_many_models() -> None:
    heat = AccessHeat(10, Clock())
    for _ in range(2):
        heat.add(ALTO, Path("alto"), 7)
    for i in range(1000):
        heat.add(ModelKey(f"voice {i}"), Path("other"), 7)
    assert len(heat.counts()) == 256
    assert heat.counts()[ALTO] == 2.0


def test_preheated_models_are_in_memory_when_they_are_requested(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=2)
    preloads = cache.preheat([ModelKey("alto"), ModelKey("bass"), ModelKey("cello")])
    assert [preload.result(PATIENCE) for preload in preloads] == [True, True, False]  # all are requested equally often
    use(cache, "alto", "bass")
    assert sorted(load.begun) == ["alto", "bass"]
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.preheated) == (2, 0, 2)
    assert [preload.result(PATIENCE) for preload in cache.preheat([ModelKey("alto")])] == [True]


def test_the_number_of_models_preheated_at_a_time_is_bounded(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(4, preheat_concurrency=2)
    gates = [load.gate(name) for name in NAMES]
    preloads = cache.preheat(map(ModelKey, NAMES))
    until(lambda: len(load.begun) == 2)
    assert cache.statistics().loading == 2
    gates[0].set()
    until(lambda: len(load.begun) == 3)
    assert cache.statistics().loading == 2
    for gate in gates:
        gate.set()
    assert all(preload.result(PATIENCE) for preload in preloads)


def test_a_request_waits_for_the_preheating_of_its_model(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=1)
    gate = load.gate("alto")
    (preload,) = cache.preheat([ModelKey("alto")])
    until(lambda: load.begun == ["alto"])
    with ThreadPoolExecutor(1) as pool:
        lease = pool.submit(cache.acquire, "alto")
        until(lambda: cache.statistics().waiting == 1)
        gate.set()
        assert len(lease.result(PATIENCE).vocoder.vocode(MEL))
    assert preload.result(PATIENCE)
    assert load.begun == ["alto"]
    lease.result().close()


def test_preheating_begins_when_no_request_waits_for_a_model(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(3, preheat_concurrency=1)
    gate = load.gate("alto")
    with ThreadPoolExecutor(1) as pool:
        lease = pool.submit(cache.acquire, "alto")
        until(lambda: cache.statistics().waiting == 1)
        preloads = cache.preheat([ModelKey("bass"), ModelKey("alto")])
        assert cache.statistics().loading == 1
        gate.set()
        assert [preload.result(PATIENCE) for preload in preloads] == [True, True]
        lease.result(PATIENCE).close()
    assert load.begun == ["alto", "bass"]


def test_a_request_takes_the_room_of_a_model_that_is_being_preheated(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(1, preheat_concurrency=1, over_capacity="refuse")
    gate = load.gate("alto")
    (preload,) = cache.preheat([ModelKey("alto")])
    until(lambda: load.begun == ["alto"])
    with cache.borrow("bass"):
        gate.set()
        assert not preload.result(PATIENCE)
        assert in_memory(cache) == {"bass"}
    load.wait_for_closed(alto=1)
    assert (cache.statistics().refused, cache.statistics().over_capacity) == (0, 0)


def test_the_most_requested_model_is_loaded_again_in_the_background(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=1)
    use(cache, *["alto", "bass"] * 4)
    use(cache, "cello")  # evicts alto, which is requested four times as often
    until(lambda: cache.statistics().preheated == 1)
    until(lambda: cache.statistics().loading == 0)
    assert in_memory(cache) == {"alto", "bass"}
    assert load.begun == ["alto", "bass", "cello", "alto"]


def test_equally_requested_models_do_not_evict_each_other(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=1)
    use(cache, "alto", "bass", "alto", "bass", "cello", "cello")
    until(lambda: not loading())
    assert load.begun == ["alto", "bass", "cello"]


def test_preheating_of_a_damaged_model_is_not_repeated(make_cache: MakeCache, load: Loader, own_root: Path) -> None:
    cache = make_cache(2, models=own_root, preheat_concurrency=1)
    use(cache, "alto", "alto")
    (own_root / "alto" / "1" / WEIGHTS).write_bytes(b"")
    cache.discard("alto")
    (preload,) = cache.preheat([ModelKey("alto")])
    with pytest.raises(ModelDirectoryError, match="damaged"):
        preload.result(PATIENCE)
    until(lambda: not loading())
    assert load.begun == ["alto", "alto"]


def test_a_cancelled_preload_is_skipped(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(3, preheat_concurrency=1)
    gate = load.gate("alto")
    first, second, third = cache.preheat([ModelKey("alto"), ModelKey("bass"), ModelKey("cello")])
    assert second.cancel()
    gate.set()
    assert first.result(PATIENCE)
    assert third.result(PATIENCE)
    assert load.begun == ["alto", "cello"]


def test_preheating_is_refused_where_it_is_switched_off(make_cache: MakeCache) -> None:
    with pytest.raises(VocoderError, match="preheat_concurrency: found 0"):
        make_cache(1).preheat([ModelKey("alto")])
