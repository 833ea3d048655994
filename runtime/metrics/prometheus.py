"""Reports vocoders and model caches to Prometheus; needs the extra ``metrics``."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.metrics.families import Labels, cache_metrics, scheduler_metrics
from wavernn_trt.runtime.models.cache import ModelCache
from wavernn_trt.runtime.vocoder import Vocoder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_Kind = Literal["model", "cache"]
"""Of a registered object; also the label that has its name."""

_collectors: weakref.WeakKeyDictionary[CollectorRegistry, VocoderCollector] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Registration:
    """Keeps a vocoder or cache reported, until it is closed or the object is gone. Also a context manager."""

    def __init__(self, collector: VocoderCollector, kind: _Kind, name: str) -> None:
        """Made by `register` and `register_cache`."""
        self._collector: VocoderCollector | None = collector
        self._kind = kind
        self._name = name

    def close(self) -> None:
        """Ends the reporting; may be called again."""
        collector, self._collector = self._collector, None
        if collector is not None:
            collector.remove(self._kind, self._name, self)

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def register(vocoder: Vocoder, name: str, registry: CollectorRegistry | None = None) -> Registration:
    """Reports a vocoder's `SchedulerStatistics` as ``wavernn_trt_…{model="NAME"}``.

    The vocoder is not kept alive; when it is gone, so are its metrics.

    Args:
        vocoder: what to report.
        name: the label.
        registry: ``None`` is Prometheus' own.

    Raises:
        VocoderError: prometheus_client is not installed, or another vocoder is reported by that name.
    """
    return _collector(registry).add("model", name, vocoder)


def register_cache(cache: ModelCache, name: str = "default", registry: CollectorRegistry | None = None) -> Registration:
    """Reports a cache's `ModelCacheStatistics` as ``wavernn_trt_model_cache_…{cache="NAME"}``.

    The vocoders in it are reported as `register` does, with both labels; a model's is what it is asked for by,
    ``NAME/VERSION/PRECISION/BACKEND`` as far as that is given. The cache is not kept alive.

    Args:
        cache: what to report.
        name: the label.
        registry: ``None`` is Prometheus' own.

    Raises:
        VocoderError: prometheus_client is not installed, or another cache is reported by that name.
    """
    return _collector(registry).add("cache", name, cache)


def _collector(registry: CollectorRegistry | None) -> VocoderCollector:
    """The one collector of a registry: a metric's name may come from one only."""
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
        """Starts with nothing to report."""
        self._lock = threading.Lock()
        self._sources: dict[tuple[_Kind, str], tuple[weakref.ref[Vocoder | ModelCache], Registration]] = {}

    def add(self, kind: _Kind, name: str, source: Vocoder | ModelCache) -> Registration:
        """Reports an object.

        Raises:
            VocoderError: the name is taken.
        """
        with self._lock:
            there = self._sources.get((kind, name))
            if there is not None and there[0]() is not None:
                raise VocoderError(
                    f"{kind}: found {name!r}, by which another is reported; expected a name of its own, or that "
                    "the other's registration was closed"
                )
            registration = Registration(self, kind, name)
            self._sources[kind, name] = weakref.ref(source), registration
            return registration

    def remove(self, kind: _Kind, name: str, registration: Registration) -> None:
        """Ends the reporting of an object, unless its name was given to another since."""
        with self._lock:
            there = self._sources.get((kind, name))
            if there is not None and there[1] is registration:
                del self._sources[kind, name]

    def describe(self) -> Iterable[Metric]:
        """Every metric, without values; the registry refuses other collectors of these names."""
        return [*scheduler_metrics([]), *cache_metrics([])]

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value now."""
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
