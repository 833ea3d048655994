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
    """As requested, with the resolved version."""
    backend: str
    """Name of the executor."""
    path: Path
    fingerprint: str
    """SHA-256 of ``manifest.json`` at the time of loading."""
    bytes: int
    """Estimate, which includes the maximum of the vocoder's conditioning."""
    users: int
    """Open leases."""
    requests: float
    """Recent requests, exponentially decaying with the cache's half-life."""
    current: bool
    """Whether requests can get it; otherwise it is closed after its last lease."""
    scheduler: SchedulerStatistics
    """Statistics of its vocoder."""


@dataclass(frozen=True)
class ModelCacheStatistics:
    """A snapshot of a model cache; counters start when the cache is made."""

    capacity_bytes: int
    bytes: int
    """Estimate for all models in memory."""
    pinned: int
    """Models in use."""
    pinned_bytes: int
    """Estimate for models in use."""
    loading: int
    """Loads in progress."""
    waiting: int
    """Requests that wait for a load."""
    hits: int
    """Requests for a model in memory."""
    misses: int
    """Requests for a model not in memory; several may have waited for the same load."""
    loads: int
    """Completed loads."""
    preheated: int
    """Completed loads for which no request waited."""
    failed_loads: int
    evictions: int
    """Models removed to make room for others."""
    over_capacity: int
    """Models loaded beyond the capacity, because all others were in use."""
    refused: int
    """Requests refused for the same reason."""
    load_seconds: Percentiles
    """Duration of loads, verification included."""
    models: tuple[ModelStatistics, ...]
    """Models in memory, the least recently used first."""
