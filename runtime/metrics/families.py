"""Prometheus metrics from statistics: names, units and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from wavernn_trt.runtime.models.statistics import ModelCacheStatistics
from wavernn_trt.runtime.scheduling.statistics import BUCKET_SECONDS, Percentiles, SchedulerStatistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PREFIX = "wavernn_trt_"


class Labels(NamedTuple):
    """Labels of a vocoder; for Prometheus an empty label is the same as none."""

    model: str
    cache: str = ""


# By kind of metric: name, reported statistic and help text. Summaries have percentiles of recent times in one process;
# histograms report the same times in a form that can be added up over processes.
_Table = dict[str, tuple[tuple[str, str, str], ...]]
_SCHEDULER: _Table = {
    "Gauge": (
        ("lanes", "lanes", "Lanes that are open."),
        ("slots", "slots", "Slots for batch work, of all lanes."),
        ("slots_busy", "busy", "Slots with an utterance or a fold of one."),
        ("occupancy_ratio", "occupancy", "Share of batch slots used by chunks while utterances waited."),
        ("queue_depth", "queue", "Utterances that wait for a slot."),
        ("utterances_under_way", "under_way", "Utterances with a slot."),
        ("conditioning_bytes", "conditioning_bytes", "Conditioning of waiting and active utterances."),
        ("samples_per_second", "samples_per_second", "Samples decoded per second, over the last ten seconds."),
    ),
    "Counter": (
        ("samples", "samples", "Samples decoded, a fold's warm-up included."),
        ("chunks", "chunks", "Chunks decoded."),
        ("decoding_seconds", "decoding_seconds", "Time that lanes spent in the executor."),
        ("utterances_restarted", "restarted", "Utterances restarted because their lane was lost."),
        ("lanes_lost", "lost_lanes", "Lanes that raised an error or hung."),
    ),
    "Summary": (
        ("first_samples_seconds", "first_samples", "From submission until the first samples."),
        ("latency_seconds", "latency", "From submission until the complete waveform."),
    ),
    "Histogram": (
        ("utterance_first_samples_seconds", "first_samples", "From submission until the first samples."),
        ("utterance_latency_seconds", "latency", "From submission until the complete waveform."),
    ),
}
_CACHE: _Table = {
    "Gauge": (
        ("capacity_bytes", "capacity_bytes", "Maximum bytes of models in memory."),
        ("bytes", "bytes", "Estimated bytes of models in memory."),
        ("pinned_bytes", "pinned_bytes", "Estimated bytes of models in use."),
        ("pinned", "pinned", "Models in use."),
        ("loading", "loading", "Loads in progress."),
        ("waiting", "waiting", "Requests that wait for a load."),
    ),
    "Counter": (
        ("hits", "hits", "Requests for a model in memory."),
        ("misses", "misses", "Requests for a model not in memory."),
        ("loads", "loads", "Completed loads."),
        ("preheated", "preheated", "Completed loads for which no request waited."),
        ("failed_loads", "failed_loads", "Failed loads."),
        ("evictions", "evictions", "Models removed to make room for others."),
        ("over_capacity", "over_capacity", "Models loaded beyond the capacity."),
        ("refused", "refused", "Requests refused because there was no room."),
    ),
    "Summary": (("load_seconds", "load_seconds", "Duration of loads, verification included."),),
    "Histogram": (("model_load_seconds", "load_seconds", "Duration of loads, verification included."),),
}
_MODEL: _Table = {
    "Gauge": (
        ("bytes", "bytes", "Estimated bytes of a model."),
        ("users", "users", "Open leases of a model."),
        ("requests_recent", "requests", "Recent requests, decaying with the cache's half-life."),
    )
}
_OUTCOMES = ("done", "failed", "cancelled", "dropped")
_QUANTILES = (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99"), ("1", "maximum"))
_BOUNDS = (*(str(bound) for bound in BUCKET_SECONDS), "+Inf")


def scheduler_metrics(found: Sequence[tuple[Labels, SchedulerStatistics]]) -> Iterator[Metric]:
    """Metrics of vocoders, labelled ``model`` and, if they are in a cache, ``cache``."""
    yield from _families(_SCHEDULER, "", Labels._fields, found)
    outcomes = _family("Counter", "utterances", "Utterances that ended, by outcome.", (*Labels._fields, "outcome"))
    for labels, statistics in found:
        for outcome in _OUTCOMES:
            outcomes.add_metric((*labels, outcome), getattr(statistics, outcome))
    yield outcomes


def cache_metrics(found: Sequence[tuple[str, ModelCacheStatistics]]) -> Iterator[Metric]:
    """Metrics of caches, labelled ``cache``, and of the models in their memory, labelled ``model`` as well."""
    yield from _families(_CACHE, "model_cache_", ("cache",), [((cache,), statistics) for cache, statistics in found])
    models = [((cache, str(model.key)), model) for cache, one in found for model in one.models if model.current]
    yield from _families(_MODEL, "model_cache_model_", ("cache", "model"), models)
    names = ("cache", "model", "backend", "fingerprint")
    info = _family("Gauge", "model_cache_model_info", "Backend and fingerprint of a model in memory; always 1.", names)
    for labels, model in models:
        info.add_metric((*labels, model.backend, model.fingerprint), 1)
    yield info


def _family(kind: str, name: str, text: str, labels: Sequence[str]) -> Any:
    from prometheus_client import core

    return getattr(core, f"{kind}MetricFamily")(PREFIX + name, text, labels=labels)  # counters add _total to the name


def _families(
    table: _Table, prefix: str, labels: Sequence[str], found: Sequence[tuple[Sequence[str], Any]]
) -> Iterator[Metric]:
    for kind, metrics in table.items():
        for name, field, text in metrics:
            family = _family(kind, prefix + name, text, labels)
            for values, statistics in found:
                _add(kind, family, labels, values, getattr(statistics, field))
            yield family


def _add(kind: str, family: Any, labels: Sequence[str], values: Sequence[str], value: float | Percentiles) -> None:
    if not isinstance(value, Percentiles):
        family.add_metric(values, value)
    elif kind == "Histogram":
        family.add_metric(values, list(zip(_BOUNDS, accumulate(value.buckets), strict=True)), value.total)
    else:
        family.add_metric(values, value.count, value.total)
        for quantile, field in _QUANTILES if value.count else ():
            # prometheus_client's summaries have no quantiles, unlike the format.
            sample = {**dict(zip(labels, values, strict=True)), "quantile": quantile}
            family.add_sample(family.name, sample, getattr(value, field))
