"""Registers vocoders and model caches with Prometheus; needs the extra ``metrics``."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.metrics.families import Labels, cache_metrics, scheduler_metrics
from wavernn_trt.runtime.models.cache import ModelCache
from wavernn_trt.runtime.vocoder import Vocoder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_Kind = Literal["model", "cache"]
"""Kind of a registered object, and the label for its name."""

_collectors: weakref.WeakKeyDictionary[CollectorRegistry, VocoderCollector] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Registration:
    """Registration of a vocoder or cache, made by `register` and `register_cache`. Also a context manager."""

    def __init__(self, collector: VocoderCollector, kind: _Kind, name: str) -> None:
        self._collector: VocoderCollector | None = collector
        self._kind = kind
        self._name = name

    def close(self) -> None:
        """Removes the metrics; may be called several times."""
        collector, self._collector = self._collector, None
        if collector is not None:
            collector.remove(self._kind, self._name, self)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def register(vocoder: Vocoder, name: str, registry: CollectorRegistry | None = None) -> Registration:
    """Reports a vocoder's `SchedulerStatistics` as ``wavernn_trt_…{model="NAME"}``.

    Only a weak reference to the vocoder is kept; its metrics end when it is garbage collected.

    Args:
        vocoder: to report.
        name: the label.
        registry: ``None`` is the default registry of prometheus_client.

    Raises:
        VocoderError: prometheus_client is not installed, or the name is in use.
    """
    return _collector(registry).add("model", name, vocoder)


def register_cache(cache: ModelCache, name: str = "default", registry: CollectorRegistry | None = None) -> Registration:
    """Reports a cache's `ModelCacheStatistics` as ``wavernn_trt_model_cache_…{cache="NAME"}``.

    The vocoders in it are reported as by `register`, with both labels; the label ``model`` is
    ``NAME/VERSION/PRECISION/BACKEND``, without the parts that were not requested. Only a weak reference is kept.

    Args:
        cache: to report.
        name: the label.
        registry: ``None`` is the default registry of prometheus_client.

    Raises:
        VocoderError: prometheus_client is not installed, or the name is in use.
    """
    return _collector(registry).add("cache", name, cache)


def _collector(registry: CollectorRegistry | None) -> VocoderCollector:
    """The collector of a registry, made on first use. A registry accepts each metric name from one collector only."""
    try:
        import prometheus_client
    except ImportError as error:
        raise VocoderError(
            "metrics need prometheus_client, which is not installed; install it with: "
            "pip install '.[metrics]' in a clone of the project"
        ) from error
    registry = prometheus_client.REGISTRY if registry is None else registry
    with _lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = VocoderCollector()
            registry.register(collector)
            _collectors[registry] = collector
        return collector


class VocoderCollector:
    """Reads the statistics of the registered vocoders and caches at each scrape."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[tuple[_Kind, str], tuple[weakref.ref[Vocoder | ModelCache], Registration]] = {}

    def add(self, kind: _Kind, name: str, source: Vocoder | ModelCache) -> Registration:
        """Registers an object.

        Raises:
            VocoderError: the name is in use.
        """
        with self._lock:
            other = self._sources.get((kind, name))
            if other is not None and other[0]() is not None:
                raise VocoderError(
                    f"{kind}: found {name!r}, which is in use; expected an unused name; close the other registration "
                    "or choose another name"
                )
            registration = Registration(self, kind, name)
            self._sources[kind, name] = weakref.ref(source), registration
            return registration

    def remove(self, kind: _Kind, name: str, registration: Registration) -> None:
        """Removes a registration, unless its name is used by a later one."""
        with self._lock:
            found = self._sources.get((kind, name))
            if found is not None and found[1] is registration:
                del self._sources[kind, name]

    def describe(self) -> Iterable[Metric]:
        """All metrics without values, from which the registry reads the names."""
        return [*scheduler_metrics([]), *cache_metrics([])]

    def collect(self) -> Iterator[Metric]:
        """All metrics that have a value now."""
        with self._lock:
            sources = {place: ref() for place, (ref, _) in self._sources.items()}
            for place, source in sources.items():
                if source is None:
                    del self._sources[place]
        schedulers = []
        caches = []
        for (_, name), source in sources.items():
            if isinstance(source, ModelCache):
                statistics = source.statistics()
                caches.append((name, statistics))
                schedulers += [
                    (Labels(str(model.key), name), model.scheduler) for model in statistics.models if model.current
                ]
            elif source is not None:
                schedulers.append((Labels(name), source.statistics()))
        yield from (metric for metric in scheduler_metrics(schedulers) if metric.samples)
        yield from (metric for metric in cache_metrics(caches) if metric.samples)
