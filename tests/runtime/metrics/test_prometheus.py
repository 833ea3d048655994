"""The statistics of live vocoders and model caches as Prometheus metrics."""

from __future__ import annotations

import builtins
import functools
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="metrics need prometheus_client")

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.metrics.prometheus import register, register_cache
from wavernn_trt.runtime.models.cache import ModelCache
from wavernn_trt.runtime.scheduling.statistics import BUCKET_SECONDS, Durations
from wavernn_trt.runtime.vocoder import Vocoder

MakeVocoder = Callable[[], Vocoder]
MEL = np.load(SAMPLE_MEL)[:, :2]
load = functools.partial(Vocoder.load, threads=1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def make_vocoder() -> Iterator[MakeVocoder]:
    """A function that loads the shipped voice and keeps no reference to it."""
    yield lambda: load(SMALL_VOICE, "onnxruntime")
    gc.collect()


def value(registry: CollectorRegistry, metric: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"wavernn_trt_{metric}", {"cache": "", **labels})


def test_the_statistics_of_a_vocoder_are_reported(registry: CollectorRegistry, make_vocoder: MakeVocoder) -> None:
    with make_vocoder() as vocoder, register(vocoder, "alto", registry):
        samples = sum(map(len, vocoder.vocode_batch([MEL, MEL])))
        statistics = vocoder.statistics()
        assert value(registry, "samples_total", model="alto") == statistics.samples >= samples > 0
        assert value(registry, "slots", model="alto") == statistics.slots
        assert value(registry, "slots_busy", model="alto") == value(registry, "queue_depth", model="alto") == 0
        assert value(registry, "utterances_total", model="alto", outcome="done") == 2
        assert value(registry, "utterances_total", model="alto", outcome="failed") == 0
        latency = statistics.latency
        assert value(registry, "latency_seconds_count", model="alto") == latency.count == 2
        assert value(registry, "latency_seconds_sum", model="alto") == latency.total
        assert value(registry, "latency_seconds", model="alto", quantile="0.99") == latency.p99 > 0
        assert value(registry, "first_samples_seconds", model="alto", quantile="1") == statistics.first_samples.maximum


def test_histograms_always_have_the_same_buckets_so_that_they_can_be_added(
    registry: CollectorRegistry, make_vocoder: MakeVocoder
) -> None:
    bounds = [*map(str, BUCKET_SECONDS), "+Inf"]
    with make_vocoder() as one, make_vocoder() as other, register(one, "a", registry), register(other, "b", registry):
        for name in ("utterance_latency_seconds", "utterance_first_samples_seconds"):
            assert [value(registry, f"{name}_bucket", model="a", le=bound) for bound in bounds] == [0] * len(bounds)
        assert value(registry, "latency_seconds_count", model="a") == 0
        assert value(registry, "latency_seconds", model="a", quantile="0.5") is None
        one.vocode_batch([MEL, MEL])
        other.vocode(MEL)
        for model, count, statistics in (("a", 2, one.statistics()), ("b", 1, other.statistics())):
            found = [value(registry, "utterance_latency_seconds_bucket", model=model, le=bound) for bound in bounds]
            assert found == sorted(found)  # type: ignore[type-var]
            assert found[-1] == value(registry, "utterance_latency_seconds_count", model=model) == count
            assert value(registry, "utterance_latency_seconds_sum", model=model) == statistics.latency.total
            assert sum(statistics.latency.buckets) == count


def test_a_duration_counts_in_the_first_bucket_whose_bound_is_not_smaller() -> None:
    durations = Durations()
    for seconds in (0.0, 0.01, 0.011, 300.0, 301.0):
        durations.add(seconds)
    counts = dict(zip((*BUCKET_SECONDS, None), durations.percentiles().buckets, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {0.01: 2, 0.02: 1, 300.0: 1, None: 1}


def test_several_vocoders_share_each_metric(registry: CollectorRegistry, make_vocoder: MakeVocoder) -> None:
    with make_vocoder() as one, make_vocoder() as other:
        first = register(one, "alto", registry)
        with register(other, "bass", registry):
            other.vocode(MEL)
            assert value(registry, "utterances_total", model="alto", outcome="done") == 0
            assert value(registry, "utterances_total", model="bass", outcome="done") == 1
            text = generate_latest(registry).decode()
            assert text.count("# TYPE wavernn_trt_samples_total counter") == 1
        assert value(registry, "slots", model="bass") is None
        first.close()
        first.close()
        assert generate_latest(registry) == b""


def test_a_name_belongs_to_one_vocoder(registry: CollectorRegistry, make_vocoder: MakeVocoder) -> None:
    one, other = make_vocoder(), make_vocoder()
    first = register(one, "alto", registry)
    with pytest.raises(VocoderError, match="model: found 'alto', which is in use"):
        register(other, "alto", registry)
    first.close()
    second = register(other, "alto", registry)
    first.close()  # the name belongs to the other now
    assert value(registry, "slots", model="alto") is not None
    second.close()


def test_a_vocoder_without_references_is_not_reported(registry: CollectorRegistry, make_vocoder: MakeVocoder) -> None:
    vocoder = make_vocoder()
    register(vocoder, "alto", registry)
    assert value(registry, "slots", model="alto") == 8
    del vocoder
    gc.collect()
    assert value(registry, "slots", model="alto") is None
    with make_vocoder() as other, register(other, "alto", registry):
        assert value(registry, "slots", model="alto") == 8


def test_a_cache_is_reported_with_the_models_in_it(registry: CollectorRegistry, tmp_path: Path) -> None:
    for name in ("alto", "bass"):
        shutil.copytree(SMALL_VOICE, tmp_path / name / "1")
    with ModelCache(tmp_path, capacity_bytes=10**9, load=load) as cache, register_cache(cache, "voices", registry):
        for _ in range(2):
            with cache.borrow("alto", backend="onnxruntime") as vocoder:
                vocoder.vocode(MEL)
        with cache.borrow("bass"):
            found = functools.partial(registry.get_sample_value, labels={"cache": "voices"})
            statistics = cache.statistics()
            assert found("wavernn_trt_model_cache_bytes") == statistics.bytes
            assert found("wavernn_trt_model_cache_capacity_bytes") == 10**9
            assert found("wavernn_trt_model_cache_pinned") == 1
            assert found("wavernn_trt_model_cache_hits_total") == 1
            assert found("wavernn_trt_model_cache_misses_total") == found("wavernn_trt_model_cache_loads_total") == 2
            assert found("wavernn_trt_model_cache_load_seconds_sum") == statistics.load_seconds.total
            alto = {"cache": "voices", "model": "alto/1/onnxruntime"}
            assert value(registry, "utterances_total", **alto, outcome="done") == 2
            assert value(registry, "model_cache_model_users", cache="voices", model="bass/1") == 1
            info = {"backend": "onnxruntime", "fingerprint": statistics.models[0].fingerprint}
            assert value(registry, "model_cache_model_info", **alto, **info) == 1
        cache.discard("bass")
        assert value(registry, "model_cache_model_users", cache="voices", model="bass/1") is None
    assert generate_latest(registry) == b""


@pytest.mark.parametrize("generate", [generate_latest, openmetrics.generate_latest], ids=["prometheus", "openmetrics"])
def test_both_formats_are_well_formed_and_units_are_in_the_names(
    registry: CollectorRegistry, make_vocoder: MakeVocoder, tmp_path: Path, generate: Any
) -> None:
    shutil.copytree(SMALL_VOICE, tmp_path / 'al"to\n')
    with (
        make_vocoder() as vocoder,
        ModelCache(tmp_path, capacity_bytes=10**9, load=load) as cache,
        register(vocoder, 'quoted "\\\n', registry),
        register_cache(cache, registry=registry),
    ):
        vocoder.vocode(MEL)
        with cache.borrow('al"to\n') as other:
            other.vocode(MEL)
        text = generate(registry).decode()
    families = list((parse if generate is generate_latest else parse_openmetrics)(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 30
    assert all(name.startswith("wavernn_trt_") for name in names)
    labels = {sample.labels.get("model") for family in families for sample in family.samples}
    assert labels >= {'quoted "\\\n', 'al"to\n'}
    kinds = {family.name: family.type for family in families}
    assert kinds["wavernn_trt_samples"] == "counter"
    assert kinds["wavernn_trt_utterance_latency_seconds"] == "histogram"
    assert kinds["wavernn_trt_latency_seconds"] == kinds["wavernn_trt_model_cache_load_seconds"] == "summary"
    series = [(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples]
    assert len(series) == len(set(series))


def test_prometheus_own_registry_is_the_default(make_vocoder: MakeVocoder) -> None:
    with make_vocoder() as vocoder, register(vocoder, "in the default registry"):
        assert value(REGISTRY, "slots", model="in the default registry") == 8


def test_without_the_package_the_error_names_the_extra(
    make_vocoder: MakeVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    with make_vocoder() as vocoder:
        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(VocoderError, match=r"prometheus_client, which is not installed.*\[metrics\]"):
            register(vocoder, "alto")
