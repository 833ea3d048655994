"""What was measured on a GPU, kept in a file: how long each kernel takes for a model's step."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.compile import source_hash
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.forms import KERNELS
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.targets import Device

_SCHEMA = 2


class ChoiceTable:
    """A folder with a file for each GPU, model, precision and batch that was measured. Several processes may use it."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet; the folder of compiled kernels is meant."""
        self._folder = folder

    def find(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device
    ) -> Mapping[Choice, float]:
        """Microseconds of a step by choice, fastest first; empty where nothing was measured, or by other kernels.

        Those of a kernel that failed are infinite: it is not to be tried again.
        """
        path, key = self._entry(shape, precision, batch, device)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["key"] != key:
                return {}
            found = {
                Choice(str(one["kernel"]), int(one["groups"])): math.inf if one["failed"] else float(one["step_us"])
                for one in told["measured"]
            }
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        known = {choice: time for choice, time in found.items() if choice.kernel in KERNELS}
        return dict(sorted(known.items(), key=lambda item: item[1]))

    def keep(
        self,
        shape: SequenceShape,
        precision: WeightPrecision,
        batch: int,
        device: Device,
        measured: Mapping[Choice, float],
    ) -> Path:
        """Writes what was measured, in microseconds of a step; see `find`.

        Raises:
            OSError: the folder cannot be written.
        """
        path, key = self._entry(shape, precision, batch, device)
        rows = [
            {**dataclasses.asdict(choice), "failed": math.isinf(time), "step_us": None if math.isinf(time) else time}
            for choice, time in measured.items()
        ]
        what = {"key": key, "device": device.name, "precision": precision, "batch": batch, "measured": rows}
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, prefix=f".{path.name}.", delete=False) as file:
            try:
                json.dump(what, file, indent=1)
                file.close()
                Path(file.name).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(file.name).unlink()
                raise
        return path

    def _entry(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device
    ) -> tuple[Path, dict[str, Any]]:
        key = {
            "schema": _SCHEMA,
            "sources": source_hash(),
            "device": dataclasses.asdict(device),
            "shape": shape.to_attributes(),
            "precision": precision,
            "batch": batch,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._folder / f"measured_sm{device.sm}_{precision}_batch{batch}_{digest[:16]}.json", key
