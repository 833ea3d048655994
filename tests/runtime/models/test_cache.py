"""Models are loaded once, kept while there is room, never closed under a user, and given back when there is none."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faulty_executor as faulty
import numpy as np
import pytest

from wavernn_trt.export.model_directory import CONFIG, MANIFEST, WEIGHTS, ModelDirectoryError, write_manifest
from wavernn_trt.runtime.errors import ClosedError, ExecutorError, LoadTimeoutError, VocoderError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import load_model
from wavernn_trt.runtime.models import source
from wavernn_trt.runtime.models.cache import ModelCache, ModelCacheFullError, ModelKey
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.models.source import ModelFolders, ModelSource
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

NAMES = ("alto", "bass", "cello", "drum")
CONDITIONING = 2**20
SIZE = estimated_bytes(shipped_voice()) + CONDITIONING
MEL = np.load(shipped_voice().parent / "sample_mel.npy")[:, :1]
PATIENCE = 60.0
"""Seconds after which a test gives up."""


class Loader:
    """Opens models and keeps account of it; a model's gate, once made, has to be opened for loading to go on."""

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
        """Waits until exactly these models were closed, in the background, so many times."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.closed == expected, PATIENCE), self.closed

    def gate(self, name: str) -> threading.Event:
        return self.gates.setdefault(name, threading.Event())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models, each the shipped voice, as their only version."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        shutil.copytree(shipped_voice(), folder / name / "1")
    return folder


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    """One model, which the test may change."""
    shutil.copytree(shipped_voice(), tmp_path / "models" / "alto" / "1")
    return tmp_path / "models"


@pytest.fixture
def load() -> Loader:
    return Loader()


@pytest.fixture
def make_cache(root: Path, load: Loader) -> Iterator[Callable[..., ModelCache]]:
    """A function (models that have room, settings) -> a cache that preheats nothing by itself."""
    made = []

    def make(room: float, **settings: Any) -> ModelCache:
        settings = {"models": root, "load": load, "preheat_concurrency": 0, **settings}
        made.append(ModelCache(capacity_bytes=int(room * SIZE), **settings))
        return made[-1]

    yield make
    for gate in load.gates.values():
        gate.set()
    for cache in made:
        cache.close()


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


def test_a_model_is_loaded_once_and_then_found(make_cache: Callable[..., ModelCache], load: Loader, root: Path) -> None:
    cache = make_cache(2)
    alone = Vocoder.load(shipped_voice(), "onnxruntime", threads=1).vocode(MEL, seed=3)
    for _ in range(3):
        with cache.borrow("alto") as vocoder:
            np.testing.assert_array_equal(vocoder.vocode(MEL, seed=3), alone)
    assert load.begun == ["alto"]
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.loads) == (2, 1, 1)
    assert statistics.load_seconds.count == 1
    assert 0 < statistics.load_seconds.p50 == statistics.load_seconds.maximum
    (model,) = statistics.models
    assert (model.key, str(model.key)) == (ModelKey("alto", "1"), "alto/1")
    assert (model.backend, model.users, model.scheduler.done) == ("onnxruntime", 0, 3)
    assert (model.path, model.bytes, statistics.bytes) == (root / "alto" / "1", SIZE, SIZE)
    assert model.requests == pytest.approx(3, abs=0.1)


def test_the_newest_version_and_that_version_are_one_model(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2)
    with cache.borrow("alto") as newest, cache.borrow("alto", "1") as named:
        assert newest is named
    with cache.borrow("alto", backend="onnxruntime") as other:  # asked for otherwise, it is another
        assert other is not newest
    assert load.begun == ["alto", "alto"]


def test_any_callable_finds_models(make_cache: Callable[..., ModelCache], root: Path) -> None:
    folders = ModelFolders(root)

    def resolve(name: str, version: str | None) -> ModelSource:
        return folders("bass" if name == "default" else name, version)

    cache = make_cache(2, models=resolve)
    with cache.acquire("default") as default, cache.acquire("bass") as bass:
        assert default.vocoder is bass.vocoder
        assert default.key == ModelKey("bass", "1")


def test_ten_threads_that_ask_for_a_cold_model_load_it_once(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(2)
    gate = load.gate("alto")
    with ThreadPoolExecutor(10) as pool:
        leases = [pool.submit(cache.acquire, "alto") for _ in range(10)]
        until(lambda: cache.statistics().waiting == 10)
        gate.set()
        vocoders = {lease.result(PATIENCE).vocoder for lease in leases}
        assert len(vocoders) == 1
        assert load.begun == ["alto"]
        assert cache.statistics().models[0].users == 10
        for lease in leases:
            lease.result().close()
    assert cache.statistics().pinned == 0


def test_all_who_wait_get_the_error_and_the_next_request_tries_again(
    make_cache: Callable[..., ModelCache], load: Loader, own_root: Path
) -> None:
    cache = make_cache(2, models=own_root, preheat_concurrency=1)
    weights = own_root / "alto" / "1" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    gate = load.gate("alto")
    with ThreadPoolExecutor(5) as pool:
        leases = [pool.submit(cache.acquire, "alto") for _ in range(5)]
        until(lambda: cache.statistics().waiting == 5)
        gate.set()
        for lease in leases:
            with pytest.raises(ModelDirectoryError, match=r"decoder\.weights is damaged"):
                lease.result(PATIENCE)
    assert load.begun == ["alto"]  # neither did the background try
    assert cache.statistics().failed_loads == 1
    weights.write_bytes(whole)
    use(cache, "alto")
    assert load.begun == ["alto", "alto"]


def test_different_models_load_at_the_same_time(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2)
    both = threading.Barrier(2)
    load.inside = lambda path: both.wait(PATIENCE) and None  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(2) as pool:
        for lease in [pool.submit(cache.acquire, name) for name in ("alto", "bass")]:
            lease.result(PATIENCE).close()
    assert in_memory(cache) == {"alto", "bass"}


def test_the_least_recently_used_model_leaves_and_is_closed(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(2)
    with cache.borrow("alto"), cache.borrow("bass") as bass:
        pass
    use(cache, "alto", "cello")
    assert in_memory(cache) == {"alto", "cello"}
    load.wait_for_closed(bass=1)
    with pytest.raises(VocoderError, match="closed"):
        bass.vocode(MEL)
    statistics = cache.statistics()
    assert statistics.evictions == 1
    assert statistics.bytes == 2 * SIZE <= statistics.capacity_bytes


def test_a_model_in_use_is_kept_beyond_the_capacity_until_it_is_not(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(1)
    first, second = cache.acquire("alto"), cache.acquire("bass")
    statistics = cache.statistics()
    assert (statistics.over_capacity, statistics.pinned, statistics.bytes) == (1, 2, 2 * SIZE)
    assert statistics.bytes > statistics.capacity_bytes
    assert len(first.vocoder.vocode(MEL)) == len(second.vocoder.vocode(MEL)) > 0
    first.close()
    load.wait_for_closed(alto=1)
    assert cache.statistics().bytes == SIZE
    second.close()
    assert in_memory(cache) == {"bass"}


def test_a_request_is_refused_where_the_cache_was_told_so(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2, over_capacity="refuse")
    use(cache, "alto")
    with cache.borrow("bass"), cache.borrow("cello"):
        with pytest.raises(ModelCacheFullError, match=r"drum/1 takes about \d+ MB; .* Close leases .* capacity_bytes"):
            cache.acquire("drum")
        assert in_memory(cache) == {"bass", "cello"}
        use(cache, "bass")
    use(cache, "drum")
    assert in_memory(cache) == {"bass", "drum"}  # used last
    assert load.begun == ["alto", "bass", "cello", "drum"]
    assert (cache.statistics().refused, cache.statistics().over_capacity) == (1, 0)


@pytest.mark.parametrize("waiting", [1, 3])
def test_a_model_that_turns_out_too_large_is_refused_too(
    make_cache: Callable[..., ModelCache], load: Loader, root: Path, waiting: int
) -> None:
    cache = make_cache(1.5, over_capacity="refuse", load=lambda *a, **k: _of_batch(64, load(*a, **k)))
    gate = load.gate("alto")
    with ThreadPoolExecutor(waiting) as pool:
        leases = [pool.submit(cache.acquire, "alto") for _ in range(waiting)]
        until(lambda: cache.statistics().waiting == waiting)
        gate.set()
        for lease in leases:
            with pytest.raises(ModelCacheFullError, match="alto"):
                lease.result(PATIENCE)
    load.wait_for_closed(alto=1)
    assert (cache.statistics().bytes, cache.statistics().refused) == (0, waiting)


def _of_batch(batch: int, vocoder: Vocoder) -> Vocoder:
    vocoder.batch = batch
    return vocoder


def test_a_model_larger_than_the_cache_is_refused_or_alone_in_it(make_cache: Callable[..., ModelCache]) -> None:
    with pytest.raises(ModelCacheFullError, match="alto"):
        make_cache(0.5, over_capacity="refuse").acquire("alto")
    cache = make_cache(0.5)
    with cache.borrow("alto") as vocoder:
        assert len(vocoder.vocode(MEL))
    statistics = cache.statistics()
    assert (statistics.bytes, statistics.over_capacity, statistics.evictions) == (0, 1, 1)


def test_a_new_export_is_loaded_while_users_of_the_old_one_keep_theirs(
    make_cache: Callable[..., ModelCache], load: Loader, own_root: Path
) -> None:
    cache = make_cache(3, models=own_root)
    before = cache.acquire("alto")
    export_again(own_root / "alto" / "1")
    after = cache.acquire("alto")
    assert after.fingerprint != before.fingerprint
    assert after.vocoder is not before.vocoder
    np.testing.assert_array_equal(before.vocoder.vocode(MEL), after.vocoder.vocode(MEL))
    assert [model.current for model in cache.statistics().models] == [True, False]
    assert load.closed == {}
    before.close()
    load.wait_for_closed(alto=1)
    assert [model.fingerprint for model in cache.statistics().models] == [after.fingerprint]
    after.close()


def test_a_model_that_is_replaced_while_it_is_loaded_is_loaded_again(
    make_cache: Callable[..., ModelCache], load: Loader, own_root: Path
) -> None:
    cache = make_cache(3, models=own_root)
    replacements = [export_again]
    load.inside = lambda path: replacements.pop()(path) if replacements else None
    with cache.acquire("alto") as first:
        assert load.begun == ["alto", "alto"]
        load.wait_for_closed(alto=1)
        with cache.acquire("alto") as second:
            assert second.vocoder is first.vocoder
    load.inside = export_again
    cache.discard("alto")
    with pytest.raises(ModelDirectoryError, match="was replaced during each of 3 loads"):
        cache.acquire("alto")
    load.wait_for_closed(alto=len(load.begun))


def test_a_discarded_model_is_loaded_again(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2)
    assert not cache.discard("alto")
    with cache.borrow("alto") as vocoder:
        assert cache.discard("alto")
        assert len(vocoder.vocode(MEL))
    load.wait_for_closed(alto=1)
    use(cache, "alto")
    assert load.begun == ["alto", "alto"]


def test_a_lease_is_closed_once_and_then_refuses(make_cache: Callable[..., ModelCache]) -> None:
    cache = make_cache(2)
    lease, other = cache.acquire("alto"), cache.acquire("alto")
    lease.close()
    lease.close()
    assert cache.statistics().models[0].users == 1
    with pytest.raises(VocoderError, match=r"lease of .*alto/1 is closed; acquire the model again"):
        _ = lease.vocoder
    assert len(other.vocoder.vocode(MEL))
    other.close()


def test_a_forgotten_lease_counts_as_closed(make_cache: Callable[..., ModelCache]) -> None:
    cache = make_cache(1)
    lease = cache.acquire("alto")
    assert cache.statistics().pinned == 1
    del lease
    gc.collect()
    assert cache.statistics().pinned == 0
    use(cache, "bass")
    assert in_memory(cache) == {"bass"}


def test_a_cancelled_request_from_asyncio_holds_nothing(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(1)
    gate = load.gate("alto")

    async def give_up() -> None:
        request = asyncio.create_task(asyncio.to_thread(cache.acquire, "alto"))
        while cache.statistics().waiting == 0:
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        gate.set()

    asyncio.run(give_up())  # returns when the thread has ended
    gc.collect()
    statistics = cache.statistics()
    assert (statistics.loads, statistics.pinned) == (1, 0)


def test_preheated_models_are_there_when_they_are_asked_for(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(2, preheat_concurrency=2)
    wishes = cache.preheat([ModelKey("alto"), ModelKey("bass"), ModelKey("cello")])
    assert [wish.result(PATIENCE) for wish in wishes] == [True, True, False]  # none was asked for more than another
    use(cache, "alto", "bass")
    assert sorted(load.begun) == ["alto", "bass"]
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.preheated) == (2, 0, 2)
    assert [wish.result(PATIENCE) for wish in cache.preheat([ModelKey("alto")])] == [True]


def test_at_most_so_many_models_are_preheated_at_a_time(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(4, preheat_concurrency=2)
    gates = [load.gate(name) for name in NAMES]
    wishes = cache.preheat(map(ModelKey, NAMES))
    until(lambda: len(load.begun) == 2)
    assert cache.statistics().loading == 2
    gates[0].set()
    until(lambda: len(load.begun) == 3)
    assert cache.statistics().loading == 2
    for gate in gates:
        gate.set()
    assert all(wish.result(PATIENCE) for wish in wishes)


def test_a_request_joins_the_preheating_of_its_model(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=1)
    gate = load.gate("alto")
    (wish,) = cache.preheat([ModelKey("alto")])
    until(lambda: load.begun == ["alto"])
    with ThreadPoolExecutor(1) as pool:
        lease = pool.submit(cache.acquire, "alto")
        until(lambda: cache.statistics().waiting == 1)
        gate.set()
        assert len(lease.result(PATIENCE).vocoder.vocode(MEL))
    assert wish.result(PATIENCE)
    assert load.begun == ["alto"]
    lease.result().close()


def test_preheating_begins_when_no_request_waits_for_a_model(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(3, preheat_concurrency=1)
    gate = load.gate("alto")
    with ThreadPoolExecutor(1) as pool:
        lease = pool.submit(cache.acquire, "alto")
        until(lambda: cache.statistics().waiting == 1)
        wishes = cache.preheat([ModelKey("bass"), ModelKey("alto")])
        assert cache.statistics().loading == 1
        gate.set()
        assert [wish.result(PATIENCE) for wish in wishes] == [True, True]
        lease.result(PATIENCE).close()
    assert load.begun == ["alto", "bass"]


def test_what_is_being_preheated_leaves_room_for_a_request(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(1, preheat_concurrency=1, over_capacity="refuse")
    gate = load.gate("alto")
    (wish,) = cache.preheat([ModelKey("alto")])
    until(lambda: load.begun == ["alto"])
    with cache.borrow("bass"):
        gate.set()
        assert not wish.result(PATIENCE)
        assert in_memory(cache) == {"bass"}
    load.wait_for_closed(alto=1)
    assert (cache.statistics().refused, cache.statistics().over_capacity) == (0, 0)


def test_the_most_requested_model_comes_back_by_itself(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=1)
    use(cache, *["alto", "bass"] * 4)
    use(cache, "cello")  # takes alto's place, which is asked for four times as often
    until(lambda: cache.statistics().preheated == 1)
    until(lambda: cache.statistics().loading == 0)
    assert in_memory(cache) == {"alto", "bass"}
    assert load.begun == ["alto", "bass", "cello", "alto"]


def test_models_asked_for_alike_do_not_take_turns(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(2, preheat_concurrency=1)
    use(cache, "alto", "bass", "alto", "bass", "cello", "cello")
    until(lambda: not loading())
    assert load.begun == ["alto", "bass", "cello"]


def test_a_damaged_model_is_not_preheated_again_and_again(
    make_cache: Callable[..., ModelCache], load: Loader, own_root: Path
) -> None:
    cache = make_cache(2, models=own_root, preheat_concurrency=1)
    use(cache, "alto", "alto")
    (own_root / "alto" / "1" / WEIGHTS).write_bytes(b"")
    cache.discard("alto")
    (wish,) = cache.preheat([ModelKey("alto")])
    with pytest.raises(ModelDirectoryError, match="damaged"):
        wish.result(PATIENCE)
    until(lambda: not loading())
    assert load.begun == ["alto", "alto"]


def test_a_cancelled_wish_is_passed_over(make_cache: Callable[..., ModelCache], load: Loader) -> None:
    cache = make_cache(3, preheat_concurrency=1)
    gate = load.gate("alto")
    first, second, third = cache.preheat([ModelKey("alto"), ModelKey("bass"), ModelKey("cello")])
    assert second.cancel()
    gate.set()
    assert first.result(PATIENCE)
    assert third.result(PATIENCE)
    assert load.begun == ["alto", "cello"]


def test_closing_ends_the_background_and_spares_who_is_speaking(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(4, preheat_concurrency=1)
    lease = cache.acquire("alto")
    use(cache, "bass")
    gate = load.gate("cello")
    begun, waiting = cache.preheat([ModelKey("cello"), ModelKey("drum")])
    until(lambda: "cello" in load.begun)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(cache.close)
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE)
        assert not closing.done()  # a model is still being loaded
        gate.set()
        closing.result(PATIENCE)
    assert not begun.result(PATIENCE)
    load.wait_for_closed(bass=1, cello=1)
    until(lambda: not loading())
    with pytest.raises(VocoderError, match="the model cache is closed"):
        cache.acquire("alto")
    assert len(lease.vocoder.vocode(MEL))
    lease.close()
    cache.close()
    load.wait_for_closed(alto=1, bass=1, cello=1)


def test_a_request_under_way_when_the_cache_closes_is_answered(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    cache = make_cache(1, over_capacity="refuse")
    gate = load.gate("alto")
    with ThreadPoolExecutor(1) as pool:
        lease = pool.submit(cache.acquire, "alto")
        until(lambda: cache.statistics().waiting == 1)
        cache.close()
        gate.set()
        assert len(lease.result(PATIENCE).vocoder.vocode(MEL))
        lease.result().close()
    load.wait_for_closed(alto=1)
    assert cache.statistics().bytes == 0


def test_a_model_in_memory_is_found_by_stat_alone(
    make_cache: Callable[..., ModelCache], load: Loader, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault B11: every request scanned the folder of versions and hashed the manifest."""
    monkeypatch.setattr(source, "SETTLED_SECONDS", 0.0)
    cache = make_cache(3, models=own_root)
    use(cache, "alto", "alto")
    read: list[Path] = []
    for name in ("file_sha256", "_folders"):
        monkeypatch.setattr(source, name, _noting(read, getattr(source, name)))
    use(cache, "alto")
    assert read == []
    shutil.copytree(own_root / "alto" / "1", own_root / "alto" / "2")
    with cache.acquire("alto") as newest:
        assert newest.key.version == "2"
    export_again(own_root / "alto" / "2")
    with cache.acquire("alto") as again:
        assert again.fingerprint != newest.fingerprint
    assert load.begun == ["alto"] * 3
    assert {own_root / "alto", own_root / "alto" / "2" / MANIFEST} <= set(read)


def _noting(read: list[Path], real: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda path: (read.append(path), real(path))[1]


def test_files_that_changed_just_now_are_read_at_each_request(
    make_cache: Callable[..., ModelCache], own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As their times may not show another change in the same moment."""
    monkeypatch.setattr(source, "SETTLED_SECONDS", 3600.0)
    cache = make_cache(3, models=own_root)
    use(cache, "alto", "alto")
    read: list[Path] = []
    monkeypatch.setattr(source, "file_sha256", _noting(read, source.file_sha256))
    use(cache, "alto")
    assert read == [own_root / "alto" / "1" / MANIFEST]


def test_the_conditioning_that_vocoders_may_hold_counts(root: Path) -> None:
    """Fault B11: 1 GiB for each vocoder was outside of the capacity."""
    weights = estimated_bytes(shipped_voice())
    whole = functools.partial(Vocoder.load, limits=SchedulerLimits())
    for load, held, fit in (
        (Vocoder.load, 2**28, 3),
        (functools.partial(Vocoder.load, threads=1), 2**28, 3),
        (whole, 2**30, 2),
    ):
        with ModelCache(root, capacity_bytes=3 * 2**30, preheat_concurrency=0, load=load) as cache:
            for name in NAMES[:3]:
                with cache.borrow(name, backend="onnxruntime"):
                    pass
            in_cache = cache.statistics()
            assert in_cache.models[0].bytes == weights + held
            assert in_cache.bytes <= in_cache.capacity_bytes
            assert len(in_cache.models) == fit


def test_a_model_whose_backend_was_given_up_is_loaded_again(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    executors: list[Any] = []

    def load_faulty(dir: Path, backend: str, *, precision: Any) -> Vocoder:
        loaded = load_model(dir, LoadOptions("onnxruntime", threads=1))
        executors.append(faulty.FaultyExecutor(loaded.executor, raises_at=0))
        vocoder = Vocoder(dataclasses.replace(loaded, executor=executors[-1]))
        load.begun.append(dir.parent.name)
        return vocoder

    cache = make_cache(100, load=load_faulty)
    with cache.borrow("alto") as broken:
        while broken.state == "ready":
            with pytest.raises(ExecutorError):
                broken.vocode(MEL)
        assert broken.state == "broken"
        with cache.borrow("alto") as again:
            executors[-1].repair()
            assert len(again.vocode(MEL))
    assert load.begun == ["alto", "alto"]


def test_a_request_waits_no_longer_than_it_may_and_a_load_that_hangs_can_be_discarded(
    make_cache: Callable[..., ModelCache], load: Loader
) -> None:
    """Fault B3: a load that hung held every request for its model for ever."""
    cache = make_cache(2, load_seconds=0.01)
    gate = load.gate("alto")
    for _ in range(2):
        with pytest.raises(LoadTimeoutError, match=r"was not loaded within 0\.01 s"):
            cache.acquire("alto")
    assert load.begun == ["alto"]
    assert not cache.discard("alto")
    gate.set()
    load.wait_for_closed(alto=1)


def test_a_cache_that_drains_keeps_leases_and_refuses_requests(make_cache: Callable[..., ModelCache]) -> None:
    cache = make_cache(2)
    lease = cache.acquire("alto")
    assert cache.state == "ready"
    assert not cache.drain(0)
    assert cache.state == "draining"
    with pytest.raises(ClosedError, match="the model cache is draining"):
        cache.acquire("alto")
    assert len(lease.vocoder.vocode(MEL))
    lease.close()
    assert cache.drain(0)
    cache.close()
    assert cache.state == "closed"


@pytest.mark.parametrize(
    "settings",
    [
        {"capacity_bytes": 0},
        {"capacity_bytes": True},
        {"capacity_bytes": 1.5},
        {"over_capacity": "maybe"},
        {"preheat_concurrency": -1},
        {"preheat_concurrency": 5},
        {"load_seconds": 0},
        {"half_life": 0},
    ],
)
def test_what_cannot_be_meant_is_refused(root: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(VocoderError, match=f"{next(iter(settings))}: found"):
        ModelCache(root, **{"capacity_bytes": 1, **settings})


def test_a_cache_that_preheats_nothing_says_so(make_cache: Callable[..., ModelCache]) -> None:
    with pytest.raises(VocoderError, match="preheat_concurrency: found 0"):
        make_cache(1).preheat([ModelKey("alto")])


@pytest.mark.parametrize("preheat_concurrency", [0, 2])
def test_under_a_crowd_no_model_is_closed_in_use_and_the_capacity_is_kept(
    make_cache: Callable[..., ModelCache], load: Loader, preheat_concurrency: int
) -> None:
    cache = make_cache(2, preheat_concurrency=preheat_concurrency)
    expected = Vocoder.load(shipped_voice(), "onnxruntime", threads=1).vocode(MEL, seed=5)

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(10):
            with cache.borrow(choose.choices(NAMES, [4, 3, 2, 1])[0]) as vocoder:
                np.testing.assert_array_equal(vocoder.vocode(MEL, seed=5), expected)
            assert (now := cache.statistics()).bytes <= now.capacity_bytes or now.pinned

    with ThreadPoolExecutor(4) as pool:
        done: list[Future[None]] = [pool.submit(work, seed) for seed in range(4)]
        for one in done:
            one.result(PATIENCE)
    until(lambda: cache.statistics().loading == 0)
    statistics = cache.statistics()
    assert statistics.hits + statistics.misses == 40
    assert statistics.pinned == statistics.waiting == statistics.failed_loads == 0
    assert statistics.bytes <= statistics.capacity_bytes
    assert statistics.loads == len(load.begun)
    cache.close()
    assert load.closed == Counter(load.begun)


def test_memory_is_really_given_back(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("resident memory is read from /proc, which only Linux has")
    for name in NAMES[:2]:
        shutil.copytree(shipped_voice(), tmp_path / name)
    code = f"""
import functools, json, numpy as np
from wavernn_trt.runtime.executors.protocol import Chunk, initial_state
from wavernn_trt.runtime.models.cache import ModelCache
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def use(vocoder):
    vocoder.vocode(mel[:, :2])  # threads and lanes are there
    rows = vocoder.executor.condition(np.tile(mel, 10)[:, :1000])
    parts = rows[:3], np.zeros(320, np.int32), np.zeros((0, 320, 3), np.float32), np.zeros((320, 1), np.float32)
    chunk = Chunk(*(np.stack([part] * 8) for part in parts))
    for _ in range(2):  # the second time, sessions keep more
        vocoder.executor.decode(chunk, initial_state(vocoder.config.model, 8))

mel = np.load({str(shipped_voice().parent / "sample_mel.npy")!r})
load = functools.partial(Vocoder.load, threads=1, limits=SchedulerLimits(conditioning_bytes={CONDITIONING}))
cache = ModelCache({str(tmp_path)!r}, capacity_bytes={SIZE}, load=load, preheat_concurrency=0)
found = []
for i in range(6):
    with cache.acquire(("alto", "bass")[i % 2], backend="onnxruntime") as lease:
        use(lease.vocoder)
    found.append(resident())
cache.close()
found.append(resident())
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE)
    first, *later, end = json.loads(done.stdout)
    assert max(later) < first + 0.4 * SIZE
    assert 0.6 * SIZE < later[-1] - end < 1.3 * SIZE
