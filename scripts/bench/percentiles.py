"""Times, reduced to what people compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentiles(seconds: Sequence[float]) -> dict[str, float | int]:
    """How many there are, and their percentiles; only the count where there is none."""
    if not seconds:
        return {"count": 0}
    p50, p90, p99, most = np.percentile(np.asarray(seconds, np.float64), [50, 90, 99, 100]).tolist()
    return {"count": len(seconds), "p50": p50, "p90": p90, "p99": p99, "max": most}
