"""What was timed so far, in a file that outlives the process of a kernel which did not end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.precisions import WeightPrecision


@dataclass(frozen=True)
class Timed:
    """One kernel with one batch."""

    model: str
    """Of `wavernn_trt.scripts.gpu.models.STANDARD`."""
    precision: WeightPrecision
    batch: int
    kernel: str
    groups: int
    steps: int
    """Of the chunks that were timed."""
    step_us: float
    """Microseconds a step."""

    @property
    def choice(self) -> Choice:
        """The kernel, as launches name it."""
        return Choice(self.kernel, self.groups)


class Journal:
    """``choices.json`` in a run's folder."""

    def __init__(self, folder: Path) -> None:
        """Reads nothing yet."""
        self._path = folder / "choices.json"

    def clear(self) -> None:
        """Forgets what another run left."""
        self._path.unlink(missing_ok=True)

    def add(self, timed: Timed) -> None:
        """Writes one more."""
        rows = [*self._rows(), timed]
        self._path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")

    def of(self, model: str, precision: WeightPrecision, batch: int) -> Mapping[Choice, float]:
        """Microseconds a step of each kernel that was timed, fastest first; what long chunks took counts most."""
        rows = [row for row in self._rows() if (row.model, row.precision, row.batch) == (model, precision, batch)]
        found = {row.choice: row.step_us for row in sorted(rows, key=lambda row: row.steps)}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def _rows(self) -> list[Timed]:
        if not self._path.exists():
            return []
        return [Timed(**row) for row in json.loads(self._path.read_text())]
