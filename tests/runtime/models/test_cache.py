"""A model cache loads models once, shares them, replaces changed ones, and closes them after their last user."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faulty_executor as faulty
import numpy as np
import pytest
from model_loading import MEL, PATIENCE, SIZE, Loader, export_again, in_memory, loading, until, use
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import MANIFEST, WEIGHTS, ModelDirectoryError
from wavernn_trt.runtime.errors import ClosedError, ExecutorError, LoadTimeoutError, VocoderError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import load_model
from wavernn_trt.runtime.models import source
from wavernn_trt.runtime.models.cache import ModelCache, ModelKey
from wavernn_trt.runtime.models.source import ModelFolders, ModelSource
from wavernn_trt.runtime.vocoder import Vocoder

MakeCache = Callable[..., ModelCache]


def test_a_model_is_loaded_once_and_then_shared(make_cache: MakeCache, load: Loader, root: Path) -> None:
    cache = make_cache(2)
    alone = Vocoder.load(SMALL_VOICE, "onnxruntime", threads=1).vocode(MEL, seed=3)
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


def test_no_version_and_the_newest_version_are_one_model(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2)
    with cache.borrow("alto") as newest, cache.borrow("alto", "1") as named:
        assert newest is named
    with cache.borrow("alto", backend="onnxruntime") as other:  # with other options, another model
        assert other is not newest
    assert load.begun == ["alto", "alto"]


def test_any_callable_finds_models(make_cache: MakeCache, root: Path) -> None:
    folders = ModelFolders(root)

    def resolve(name: str, version: str | None) -> ModelSource:
        return folders("bass" if name == "default" else name, version)

    cache = make_cache(2, models=resolve)
    with cache.acquire("default") as default, cache.acquire("bass") as bass:
        assert default.vocoder is bass.vocoder
        assert default.key == ModelKey("bass", "1")


def test_ten_requests_for_an_absent_model_load_it_once(make_cache: MakeCache, load: Loader) -> None:
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


def test_all_waiting_requests_get_the_error_and_the_next_request_loads_again(
    make_cache: MakeCache, load: Loader, own_root: Path
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
    assert load.begun == ["alto"]  # nor in the background
    assert cache.statistics().failed_loads == 1
    weights.write_bytes(whole)
    use(cache, "alto")
    assert load.begun == ["alto", "alto"]


def test_different_models_load_at_the_same_time(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2)
    both = threading.Barrier(2)
    load.inside = lambda path: both.wait(PATIENCE) and None  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(2) as pool:
        for lease in [pool.submit(cache.acquire, name) for name in ("alto", "bass")]:
            lease.result(PATIENCE).close()
    assert in_memory(cache) == {"alto", "bass"}


def test_a_new_export_is_loaded_while_users_of_the_old_one_keep_theirs(
    make_cache: MakeCache, load: Loader, own_root: Path
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
    make_cache: MakeCache, load: Loader, own_root: Path
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


def test_a_discarded_model_is_loaded_again(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(2)
    assert not cache.discard("alto")
    with cache.borrow("alto") as vocoder:
        assert cache.discard("alto")
        assert len(vocoder.vocode(MEL))
    load.wait_for_closed(alto=1)
    use(cache, "alto")
    assert load.begun == ["alto", "alto"]


def test_a_closed_lease_refuses_its_vocoder(make_cache: MakeCache) -> None:
    cache = make_cache(2)
    lease, other = cache.acquire("alto"), cache.acquire("alto")
    lease.close()
    lease.close()
    assert cache.statistics().models[0].users == 1
    with pytest.raises(VocoderError, match=r"lease of .*alto/1 is closed; acquire the model again"):
        _ = lease.vocoder
    assert len(other.vocoder.vocode(MEL))
    other.close()


def test_a_lease_without_references_counts_as_closed(make_cache: MakeCache) -> None:
    cache = make_cache(1)
    lease = cache.acquire("alto")
    assert cache.statistics().pinned == 1
    del lease
    gc.collect()
    assert cache.statistics().pinned == 0
    use(cache, "bass")
    assert in_memory(cache) == {"bass"}


def test_a_cancelled_request_from_asyncio_holds_no_lease(make_cache: MakeCache, load: Loader) -> None:
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


def test_closing_ends_background_loads_and_keeps_leased_models_open(make_cache: MakeCache, load: Loader) -> None:
    cache = make_cache(4, preheat_concurrency=1)
    lease = cache.acquire("alto")
    use(cache, "bass")
    gate = load.gate("cello")
    begun, queued = cache.preheat([ModelKey("cello"), ModelKey("drum")])
    until(lambda: "cello" in load.begun)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(cache.close)
        with pytest.raises(CancelledError):
            queued.result(PATIENCE)
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


def test_a_request_that_waits_while_the_cache_closes_gets_its_model(make_cache: MakeCache, load: Loader) -> None:
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


def test_a_request_for_a_model_in_memory_reads_no_files(
    make_cache: MakeCache, load: Loader, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only compares file times, also of the folder of versions."""
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


def test_a_manifest_that_changed_just_now_is_read_at_each_request(
    make_cache: MakeCache, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time may not show a second change at the same moment."""
    monkeypatch.setattr(source, "SETTLED_SECONDS", 3600.0)
    cache = make_cache(3, models=own_root)
    use(cache, "alto", "alto")
    read: list[Path] = []
    monkeypatch.setattr(source, "file_sha256", _noting(read, source.file_sha256))
    use(cache, "alto")
    assert read == [own_root / "alto" / "1" / MANIFEST]


def test_a_model_with_a_broken_backend_is_loaded_again(make_cache: MakeCache, load: Loader) -> None:
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


def test_a_request_waits_for_at_most_load_seconds_and_a_hanging_load_can_be_discarded(
    make_cache: MakeCache, load: Loader
) -> None:
    cache = make_cache(2, load_seconds=0.01)
    gate = load.gate("alto")
    for _ in range(2):
        with pytest.raises(LoadTimeoutError, match=r"was not loaded within 0\.01 s"):
            cache.acquire("alto")
    assert load.begun == ["alto"]
    assert not cache.discard("alto")
    gate.set()
    load.wait_for_closed(alto=1)


def test_a_cache_that_drains_keeps_leases_and_refuses_requests(make_cache: MakeCache) -> None:
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
def test_invalid_settings_are_refused(root: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(VocoderError, match=f"{next(iter(settings))}: found"):
        ModelCache(root, **{"capacity_bytes": 1, **settings})
