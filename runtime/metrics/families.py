"""From statistics to Prometheus' metrics: names, units and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wavernn_trt.runtime.models.statistics import ModelCacheStatistics
from wavernn_trt.runtime.scheduling.statistics import Percentiles, SchedulerStatistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PREFIX = "wavernn_trt_"


class Labels(NamedTuple):
    """Of a vocoder; an empty label counts as none."""

    model: str
    cache: str = ""


# The name of a metric, the statistic that it is, and what it says.
_SCHEDULER_GAUGES = (
    ("lanes", "lanes", "Lanes that are open."),
    ("slots", "slots", "Slots for batch work, of all lanes."),
    ("slots_busy", "busy", "Slots with an utterance in them, or a fold of one."),
    ("occupancy_ratio", "occupancy", "Share of the slots for batch work that were in a chunk, while others waited."),
    ("queue_depth", "queue", "Utterances that wait for a slot."),
    ("utterances_under_way", "under_way", "Utterances with a slot."),
    ("conditioning_bytes", "conditioning_bytes", "Conditioning of utterances that wait for a slot or have one."),
    ("samples_per_second", "samples_per_second", "Samples decoded in a second, over the last ten."),
)
_SCHEDULER_COUNTERS = (
    ("samples", "samples", "Samples decoded, a fold's warm-up included."),
    ("chunks", "chunks", "Chunks decoded."),
    ("decoding_seconds", "decoding_seconds", "Time that lanes spent in the executor."),
    ("utterances_restarted", "restarted", "Utterances begun again because their lane was lost."),
    ("lanes_lost", "lost_lanes", "Lanes that raised an error or did not answer."),
)
_SCHEDULER_SUMMARIES = (
    ("first_samples_seconds", "first_samples", "From submission until there is something to hear."),
    ("latency_seconds", "latency", "From submission until the waveform is whole."),
)
_CACHE_GAUGES = (
    ("capacity_bytes", "capacity_bytes", "Bytes that models in memory may take."),
    ("bytes", "bytes", "Bytes that models in memory take, estimated."),
    ("pinned_bytes", "pinned_bytes", "Bytes of models in use, estimated."),
    ("pinned", "pinned", "Models in use."),
    ("loading", "loading", "Models that are being loaded."),
    ("waiting", "waiting", "Requests that wait for models to be loaded."),
)
_CACHE_COUNTERS = (
    ("hits", "hits", "Requests for a model that was in memory."),
    ("misses", "misses", "Requests for a model that was not."),
    ("loads", "loads", "Models loaded."),
    ("preheated", "preheated", "Models loaded that nobody waited for."),
    ("failed_loads", "failed_loads", "Models that did not load."),
    ("evictions", "evictions", "Models that left the memory for others."),
    ("over_capacity", "over_capacity", "Models loaded though there was no room."),
    ("refused", "refused", "Requests refused because there was no room."),
)
_MODEL_GAUGES = (
    ("bytes", "bytes", "Bytes that a model takes, estimated."),
    ("users", "users", "Leases of a model."),
    ("requests_recent", "requests", "Requests for a model, where one counts half after the cache's half-life."),
)
_OUTCOMES = ("done", "failed", "cancelled", "dropped")
_QUANTILES = (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99"), ("1", "maximum"))


def scheduler_metrics(found: Sequence[tuple[Labels, SchedulerStatistics]]) -> Iterator[Metric]:
    """What vocoders do, labelled ``model`` and, for those in a cache, ``cache``."""
    for name, field, text in _SCHEDULER_GAUGES:
        yield _gauge(name, text, Labels._fields, ((labels, getattr(one, field)) for labels, one in found))
    for name, field, text in _SCHEDULER_COUNTERS:
        yield _counter(name, text, Labels._fields, ((labels, getattr(one, field)) for labels, one in found))
    yield _counter(
        "utterances",
        "Utterances that ended: done, failed, cancelled by their callers, or dropped for their deadline.",
        (*Labels._fields, "outcome"),
        (((*labels, outcome), getattr(one, outcome)) for labels, one in found for outcome in _OUTCOMES),
    )
    for name, field, text in _SCHEDULER_SUMMARIES:
        yield _summary(name, text, Labels._fields, ((labels, getattr(one, field)) for labels, one in found))


def cache_metrics(found: Sequence[tuple[str, ModelCacheStatistics]]) -> Iterator[Metric]:
    """What caches hold and count, labelled ``cache``, and of each model in memory also ``model``."""
    names = ("cache",)
    for name, field, text in _CACHE_GAUGES:
        yield _gauge(f"model_cache_{name}", text, names, (((cache,), getattr(one, field)) for cache, one in found))
    for name, field, text in _CACHE_COUNTERS:
        yield _counter(f"model_cache_{name}", text, names, (((cache,), getattr(one, field)) for cache, one in found))
    seconds = (((cache,), one.load_seconds) for cache, one in found)
    yield _summary("model_cache_load_seconds", "Time to load a model, verifying included.", names, seconds)
    models = [(cache, model) for cache, one in found for model in one.models if model.current]
    for name, field, text in _MODEL_GAUGES:
        values = (((cache, str(model.key)), getattr(model, field)) for cache, model in models)
        yield _gauge(f"model_cache_model_{name}", text, ("cache", "model"), values)
    yield _gauge(
        "model_cache_model_info",
        "What a model in memory is; always 1.",
        ("cache", "model", "backend", "fingerprint"),
        (((cache, str(model.key), model.backend, model.fingerprint), 1) for cache, model in models),
    )


def _gauge(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + name, text, labels=labels)  # adds _total
    for of, value in values:
        family.add_metric(of, value)
    return family


def _summary(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], Percentiles]]
) -> Metric:
    from prometheus_client.core import SummaryMetricFamily

    family = SummaryMetricFamily(PREFIX + name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value.count, value.total)
        if value.count:
            # prometheus_client's own summaries have no quantiles; the format does.
            for quantile, field in _QUANTILES:
                among = dict(zip(labels, of, strict=True))
                family.add_sample(family.name, {**among, "quantile": quantile}, getattr(value, field))
    return family
