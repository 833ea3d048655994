"""Statistics as Prometheus' metrics: names, units and labels."""

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
    """Of a vocoder; an empty label counts as none."""

    model: str
    cache: str = ""


# By kind: a metric's name, the statistic that it reports, and its help text. Summaries have the percentiles of one
# process's recent times; histograms report the same times so that they can be added up over processes.
_Table = dict[str, tuple[tuple[str, str, str], ...]]
_SCHEDULER: _Table = {
    "Gauge": (
        ("lanes", "lanes", "Lanes that are open."),
        ("slots", "slots", "Slots for batch work, of all lanes."),
        ("slots_busy", "busy", "Slots with an utterance in them, or a fold of one."),
        ("occupancy_ratio", "occupancy", "Share of slots for batch work that were in a chunk, while others waited."),
        ("queue_depth", "queue", "Utterances that wait for a slot."),
        ("utterances_under_way", "under_way", "Utterances with a slot."),
        ("conditioning_bytes", "conditioning_bytes", "Conditioning of utterances that wait for a slot or have one."),
        ("samples_per_second", "samples_per_second", "Samples decoded in a second, over the last ten."),
    ),
    "Counter": (
        ("samples", "samples", "Samples decoded, a fold's warm-up included."),
        ("chunks", "chunks", "Chunks decoded."),
        ("decoding_seconds", "decoding_seconds", "Time that lanes spent in the executor."),
        ("utterances_restarted", "restarted", "Utterances begun again because their lane was lost."),
        ("lanes_lost", "lost_lanes", "Lanes that raised an error or did not answer."),
    ),
    "Summary": (
        ("first_samples_seconds", "first_samples", "From submission until there is something to hear."),
        ("latency_seconds", "latency", "From submission until the waveform is whole."),
    ),
    "Histogram": (
        ("utterance_first_samples_seconds", "first_samples", "From submission until there is something to hear."),
        ("utterance_latency_seconds", "latency", "From submission until the waveform is whole."),
    ),
}
_CACHE: _Table = {
    "Gauge": (
        ("capacity_bytes", "capacity_bytes", "Bytes that models in memory may take."),
        ("bytes", "bytes", "Bytes that models in memory take, estimated."),
        ("pinned_bytes", "pinned_bytes", "Bytes of models in use, estimated."),
        ("pinned", "pinned", "Models in use."),
        ("loading", "loading", "Models that are being loaded."),
        ("waiting", "waiting", "Requests that wait for models to be loaded."),
    ),
    "Counter": (
        ("hits", "hits", "Requests for a model that was in memory."),
        ("misses", "misses", "Requests for a model that was not."),
        ("loads", "loads", "Models loaded."),
        ("preheated", "preheated", "Models loaded that no request waited for."),
        ("failed_loads", "failed_loads", "Models that did not load."),
        ("evictions", "evictions", "Models that left the memory for others."),
        ("over_capacity", "over_capacity", "Models loaded though there was no room."),
        ("refused", "refused", "Requests refused because there was no room."),
    ),
    "Summary": (("load_seconds", "load_seconds", "Time to load a model, verifying included."),),
    "Histogram": (("model_load_seconds", "load_seconds", "Time to load a model, verifying included."),),
}
_MODEL: _Table = {
    "Gauge": (
        ("bytes", "bytes", "Bytes that a model takes, estimated."),
        ("users", "users", "Leases of a model."),
        ("requests_recent", "requests", "Requests for a model, where one counts half after the cache's half-life."),
    )
}
_OUTCOMES = ("done", "failed", "cancelled", "dropped")
_QUANTILES = (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99"), ("1", "maximum"))
_BOUNDS = (*(str(bound) for bound in BUCKET_SECONDS), "+Inf")


def scheduler_metrics(found: Sequence[tuple[Labels, SchedulerStatistics]]) -> Iterator[Metric]:
    """What vocoders do, labelled ``model`` and, for those in a cache, ``cache``."""
    yield from _families(_SCHEDULER, "", Labels._fields, found)
    outcomes = _family("Counter", "utterances", "Utterances that ended, by outcome.", (*Labels._fields, "outcome"))
    for labels, one in found:
        for outcome in _OUTCOMES:
            outcomes.add_metric((*labels, outcome), getattr(one, outcome))
    yield outcomes


def cache_metrics(found: Sequence[tuple[str, ModelCacheStatistics]]) -> Iterator[Metric]:
    """What caches hold and count, labelled ``cache``, and of each model in memory also ``model``."""
    yield from _families(_CACHE, "model_cache_", ("cache",), [((cache,), one) for cache, one in found])
    models = [((cache, str(one.key)), one) for cache, caches in found for one in caches.models if one.current]
    yield from _families(_MODEL, "model_cache_model_", ("cache", "model"), models)
    names = ("cache", "model", "backend", "fingerprint")
    info = _family("Gauge", "model_cache_model_info", "What a model in memory is; always 1.", names)
    for labels, model in models:
        info.add_metric((*labels, model.backend, model.fingerprint), 1)
    yield info


def _family(kind: str, name: str, text: str, labels: Sequence[str]) -> Any:
    from prometheus_client import core

    return getattr(core, f"{kind}MetricFamily")(PREFIX + name, text, labels=labels)  # a counter's adds _total


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
            # prometheus_client's own summaries have no quantiles; the format does.
            sample = {**dict(zip(labels, values, strict=True)), "quantile": quantile}
            family.add_sample(family.name, sample, getattr(value, field))
