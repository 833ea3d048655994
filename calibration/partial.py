"""The file with the intermediate results of a calibration, from which the next run continues.

JSON with a hash of its own content. It fits a run of the same model and settings whose inputs include all files that it
has counted, since counts of single files cannot be subtracted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_trt.calibration.histogram import BINS, Histogram
from wavernn_trt.export.atomic_file import write_atomic

_VERSION = 1


@dataclass
class Observations:
    """Histograms of the processed files."""

    histograms: dict[str, Histogram]
    """By product."""
    done: dict[str, int] = field(default_factory=dict)
    """Number of steps of each processed file, by the SHA-256 of its content."""

    def write(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Writes the file, whole or not at all.

        Args:
            path: the file.
            settings: inputs of the histograms besides the files, as JSON values.

        Raises:
            OSError: it cannot be written.
        """
        histograms = {
            name: {"exponent": one.exponent, "largest": one.largest, "counts": one.counts.tolist()}
            for name, one in self.histograms.items()
        }
        values = {"settings": _versioned(settings), "done": self.done, "histograms": histograms}
        write_atomic(path, json.dumps({**values, "sha256": _hash(values)}).encode())


class MisfitError(ValueError):
    """This run cannot continue from the file: the reason."""


def read_observations(
    path: Path, settings: Mapping[str, Any], products: Collection[str], inputs: Collection[str]
) -> Observations:
    """Reads the file of an earlier run.

    Args:
        path: the file.
        settings: settings of this run.
        products: the model's products.
        inputs: SHA-256 of each file of this run.

    Raises:
        MisfitError: it is damaged, or of another run.
        OSError: it cannot be read.
    """
    try:
        values = json.loads(path.read_bytes())
        if values.pop("sha256") != _hash(values):
            raise MisfitError("it is damaged")
        if values["settings"] != _versioned(settings):
            raise MisfitError("it is of another model or other settings")
        done = {str(sha256): int(steps) for sha256, steps in values["done"].items()}
        if not set(done) <= set(inputs):
            raise MisfitError("it has counted files that are not among these")
        histograms = {name: _histogram(values["histograms"][name]) for name in products}
    except MisfitError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise MisfitError("it is damaged") from None
    return Observations(histograms, done)


def _versioned(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "version": _VERSION, "bins": BINS}


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _histogram(values: Mapping[str, Any]) -> Histogram:
    counts = np.array(values["counts"], np.int64)
    if counts.shape != (BINS,):
        raise ValueError("another number of bins")
    return Histogram(counts, int(values["exponent"]), float(values["largest"]))
