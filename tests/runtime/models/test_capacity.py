"""A model cache keeps to its capacity: evictions, refusals, and memory that is freed."""

from __future__ import annotations

import functools
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from model_loading import CONDITIONING, MEL, NAMES, PATIENCE, SIZE, Loader, in_memory, until, use
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.models.cache import ModelCache, ModelCacheFullError
from wavernn_trt.runtime.models.memory import estimated_bytes
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

MakeCache = Callable[..., ModelCache]


def test_the_least_recently_used_model_is_evicted_and_closed(make_cache: MakeCache, load: Loader) -> None:
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


def test_a_model_in_use_is_kept_beyond_the_capacity_until_it_is_not(make_cache: MakeCache, load: Loader) -> None:
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


def test_a_request_is_refused_if_models_in_use_leave_no_room(make_cache: MakeCache, load: Loader) -> None:
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
def test_a_model_that_is_larger_than_estimated_is_refused(
    make_cache: MakeCache, load: Loader, root: Path, waiting: int
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


def test_a_model_larger_than_the_cache_is_refused_or_alone_in_it(make_cache: MakeCache) -> None:
    with pytest.raises(ModelCacheFullError, match="alto"):
        make_cache(0.5, over_capacity="refuse").acquire("alto")
    cache = make_cache(0.5)
    with cache.borrow("alto") as vocoder:
        assert len(vocoder.vocode(MEL))
    statistics = cache.statistics()
    assert (statistics.bytes, statistics.over_capacity, statistics.evictions) == (0, 1, 1)


def test_the_capacity_includes_the_conditioning_of_vocoders(root: Path) -> None:
    weights = estimated_bytes(SMALL_VOICE)
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


@pytest.mark.parametrize("preheat_concurrency", [0, 2])
def test_with_many_threads_no_model_is_closed_in_use_and_the_capacity_holds(
    make_cache: MakeCache, load: Loader, preheat_concurrency: int
) -> None:
    cache = make_cache(2, preheat_concurrency=preheat_concurrency)
    expected = Vocoder.load(SMALL_VOICE, "onnxruntime", threads=1).vocode(MEL, seed=5)

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(10):
            with cache.borrow(choose.choices(NAMES, [4, 3, 2, 1])[0]) as vocoder:
                np.testing.assert_array_equal(vocoder.vocode(MEL, seed=5), expected)
            assert (now := cache.statistics()).bytes <= now.capacity_bytes or now.pinned

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, seed) for seed in range(4)]
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


def test_memory_of_closed_models_returns_to_the_system(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("resident memory is read from /proc, which only Linux has")
    for name in NAMES[:2]:
        shutil.copytree(SMALL_VOICE, tmp_path / name)
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

mel = np.load({str(SAMPLE_MEL)!r})
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
    command = [sys.executable, "-c", code]
    for _ in range(3):  # the system takes pages back on a loaded machine
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
        first, *later, end = json.loads(done.stdout)
        if max(later) < first + 0.4 * SIZE and 0.6 * SIZE < later[-1] - end < 1.3 * SIZE:
            return
    pytest.fail(f"resident bytes of models of {SIZE}: first {first}, later {later}, at the end {end}")
