"""What is asked of an engine when a model is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.engines.spec import Backend
from wavernn_trt.export.operators import Precision


@dataclass(frozen=True)
class EngineWish:
    """Which engine to open."""

    backend: Backend
    precision: Precision | None = None
    """``None``: that of the engine that was used last."""
    batch: int | None = None
    """Streams that it decodes together, inside its profile; ``None``: any engine, with as many as it can."""
    cache: Path | None = None
    """The folder of plans; ``None`` is the user's own."""
