"""What every report begins with: its schema, when and on what it was measured, and what else ran there."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from wavernn_trt.scripts.bench.gpu_state import describe_gpu, read_gpu
from wavernn_trt.scripts.bench.machine import MachineWatch, describe_machine, describe_versions

SCHEMA = 2
"""Of reports. 1 had no number: no date, no GPU, no memory copy, and one peer."""


class Circumstances:
    """Watches while something is measured."""

    def __init__(self) -> None:
        """Begins."""
        self._date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._gpu = read_gpu()
        self._watch = MachineWatch()

    def describe(self, scenario: str) -> dict[str, Any]:
        """What it was, until now.

        Args:
            scenario: that was measured.
        """
        share = self._watch.others_share()
        return {
            "schema": SCHEMA,
            "scenario": scenario,
            "date": self._date,
            "machine": describe_machine(),
            "gpu": describe_gpu(self._gpu, read_gpu()),
            "others_share": share,
            "versions": describe_versions(),
        }
