"""Statistics of a model cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.runtime.models.source import ModelKey
from wavernn_trt.runtime.scheduling.statistics import Percentiles, SchedulerStatistics


@dataclass(frozen=True)
class ModelStatistics:
    """One model in memory."""

    key: ModelKey
    """As requested, with the version that was found."""
    backend: str
    """The executor's name."""
    path: Path
    fingerprint: str
    """The SHA-256 of its ``manifest.json``, as it was when the model was loaded."""
    bytes: int
    """An estimate, with the conditioning that the vocoder may hold."""
    users: int
    """Leases that are not closed."""
    requests: float
    """Recent requests; one counts half after the cache's half-life."""
    current: bool
    """Whether requests get it; if not, it is closed with its last lease."""
    scheduler: SchedulerStatistics
    """Statistics of its vocoder."""


@dataclass(frozen=True)
class ModelCacheStatistics:
    """A snapshot of a model cache; counts are since it was made."""

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
    """Those of them that no request waited for."""
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
