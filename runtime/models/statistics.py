"""What a model cache counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wavernn_trt.runtime.models.shelf import ModelKey, ModelShelf
from wavernn_trt.runtime.scheduling.statistics import Durations, Percentiles, SchedulerStatistics


@dataclass(frozen=True)
class ModelStatistics:
    """One model in memory."""

    key: ModelKey
    """As asked for, with the version that was found."""
    backend: str
    """The executor's name."""
    path: Path
    fingerprint: str
    """The SHA-256 of its ``manifest.json``, as it was when the model was loaded."""
    bytes: int
    """An estimate."""
    users: int
    """Leases that are not closed."""
    requests: float
    """How often it was asked for lately; a request counts half after the cache's half-life."""
    current: bool
    """Whether it is still given to those who ask; if not, it is closed with its last lease."""
    scheduler: SchedulerStatistics
    """What its vocoder is doing."""


@dataclass(frozen=True)
class ModelCacheStatistics:
    """One moment of a model cache. What is counted is counted since it was made."""

    capacity_bytes: int
    bytes: int
    """Of all models in memory; an estimate."""
    pinned: int
    """Models in use."""
    pinned_bytes: int
    """Of those."""
    loading: int
    """Models that are being loaded."""
    waiting: int
    """Requests that wait for them."""
    hits: int
    """Requests for a model that was in memory."""
    misses: int
    """Requests for a model that was not; many may have waited for one loading."""
    loads: int
    """Models loaded."""
    preheated: int
    """Those of them that nobody waited for."""
    failed_loads: int
    """Models that did not load."""
    evictions: int
    """Models that left the memory for others."""
    over_capacity: int
    """Models loaded though there was no room, because all others were in use."""
    refused: int
    """Requests refused for that reason."""
    load_seconds: Percentiles
    """Time to load a model, verifying included."""
    models: tuple[ModelStatistics, ...]
    """The models in memory, the least recently used first."""


@dataclass
class CacheCounters:
    """What `ModelCacheStatistics` is made of; whoever changes it holds the cache's lock."""

    hits: int = 0
    misses: int = 0
    loads: int = 0
    preheated: int = 0
    failed_loads: int = 0
    evictions: int = 0
    over_capacity: int = 0
    refused: int = 0
    load_seconds: Durations = field(default_factory=Durations)


def take_statistics(
    shelf: ModelShelf, waiting: list[int], counters: CacheCounters, counts: dict[ModelKey, float]
) -> ModelCacheStatistics:
    """One moment; whoever calls holds the cache's lock.

    Args:
        shelf: the models in memory.
        waiting: requests that wait, for each model that is being loaded.
        counters: what was counted.
        counts: requests for each model, lately.
    """
    models = tuple(
        ModelStatistics(
            key=model.key,
            backend=model.vocoder.backend,
            path=model.path,
            fingerprint=model.fingerprint,
            bytes=model.bytes,
            users=model.users,
            requests=counts.get(model.key, 0.0),
            current=shelf.is_current(model),
            scheduler=model.vocoder.statistics(),
        )
        for model in shelf
    )
    return ModelCacheStatistics(
        capacity_bytes=shelf.capacity,
        bytes=shelf.bytes,
        pinned=sum(model.users > 0 for model in models),
        pinned_bytes=shelf.pinned_bytes,
        loading=len(waiting),
        waiting=sum(waiting),
        hits=counters.hits,
        misses=counters.misses,
        loads=counters.loads,
        preheated=counters.preheated,
        failed_loads=counters.failed_loads,
        evictions=counters.evictions,
        over_capacity=counters.over_capacity,
        refused=counters.refused,
        load_seconds=counters.load_seconds.percentiles(),
        models=models,
    )
