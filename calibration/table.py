"""The calibration table: the magnitudes of a model's activations, and the bounds of each grid.

A JSON file. For each product it has the number of measured values, the largest magnitude, and each method's bound
(`wavernn_trt.export.quantization.Product.bound`) for each grid. Hashes identify its model and inputs. The same inputs
always give the same file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.config import ConfigError, require
from wavernn_trt.export.model_directory import (
    CONDITIONER,
    DECODER_LOOP,
    MANIFEST,
    UPSAMPLING,
    WEIGHTS,
    ModelDirectory,
    read_manifest,
)
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization, product_names
from wavernn_trt.export.typed_json import from_json

SCHEMA_VERSION = 1
"""Version of the file; other versions are refused."""
Method = Literal["minmax", "percentile", "entropy", "mse"]
"""Method of a bound; see `wavernn_trt.calibration.bounds`."""
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_METHODS: Mapping[Grid, Method] = {"int8": "percentile", "fp8": "mse"}
"""The methods with the least loss on two trained models. Clipping rare large values makes int8's steps finer for all
other values; fp8's steps near zero are fine at any bound."""


@dataclass(frozen=True)
class ActivationRange:
    """The measured inputs of one product."""

    values: int
    """Number of values."""
    largest: float
    """Their largest magnitude."""
    bounds: Mapping[Grid, Mapping[Method, float]]
    """Bounds by scaled grid and method."""

    def __post_init__(self) -> None:
        for grid, method in itertools.product(LARGEST, METHODS):
            bound = self.bounds.get(grid, {}).get(method, math.nan)
            require(0 < bound < math.inf, f"the {method} bound of {grid}", bound, "a positive number")


@dataclass(frozen=True)
class CalibrationInput:
    """A file that was measured."""

    name: str
    """Its name without the folder."""
    sha256: str
    """SHA-256 of its content."""
    samples: int
    """Its number of steps."""


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of one model's activations over some inputs."""

    model: str
    """`model_hash` of the model."""
    source: str
    """Name of the model's checkpoint, for display."""
    forced: bool
    """Whether the samples come from recordings; else the model drew them."""
    seed: int | None
    """Seed of the samples that the model drew."""
    inputs: tuple[CalibrationInput, ...]
    """Sorted by names and hashes."""
    ranges: Mapping[str, ActivationRange]
    """By product."""

    def quantization(self, grid: Grid, method: Method | None = None, *, kept: Collection[str] = ()) -> Quantization:
        """Returns the quantisation of the model's products.

        Args:
            grid: a scaled grid for all products.
            method: method of the bounds; ``None`` is that of `DEFAULT_METHODS`.
            kept: products to keep in float32.

        Raises:
            CalibrationError: ``kept`` names a product that is not in the table.
        """
        for name in kept:
            if name not in self.ranges:
                raise CalibrationError(f"keep: found {name!r}, expected some of {', '.join(self.ranges)}")
        chosen = method or DEFAULT_METHODS[grid]
        products = {
            name: Product(grid, found.bounds[grid][chosen]) for name, found in self.ranges.items() if name not in kept
        }
        return Quantization(products, self.sha256)

    def check(self, directory: ModelDirectory) -> None:
        """Checks that the table belongs to a directory's model.

        Raises:
            CalibrationError: it belongs to another model.
        """
        found = model_hash(directory)
        if found != self.model or tuple(self.ranges) != product_names(directory.model):
            raise CalibrationError(
                f"the table is of another model ({self.source}, {self.model[:12]}…) than {directory.path} "
                f"({directory.source.get('checkpoint', 'unknown')}, {found[:12]}…); make one of this model with: "
                f"wavernn-trt calibrate {directory.path} SPEECH -o TABLE"
            )

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's content."""
        return hashlib.sha256(self._content().encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_atomic(path, self._content().encode())

    def _content(self) -> str:
        return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"


def read_table(path: Path) -> CalibrationTable:
    """Reads a table.

    Raises:
        CalibrationError: it is not a table, damaged, or of another version.
        OSError: it cannot be read.
    """
    again = "make it again with: wavernn-trt calibrate DIR SPEECH -o TABLE"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("schema_version")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CalibrationError(f"{path}: not a calibration table ({error}); {again}") from None
    if version != SCHEMA_VERSION:
        raise CalibrationError(f"{path}: schema version {version!r}, this wavernn-trt reads {SCHEMA_VERSION}; {again}")
    try:
        return from_json(CalibrationTable, values, "table")
    except ConfigError as error:
        raise CalibrationError(f"{path}: damaged ({error}); {again}") from None


def model_hash(directory: ModelDirectory) -> str:
    """Returns the SHA-256 of the files and settings that determine a model's activations and mels."""
    files: dict[str, Any] = read_manifest(directory.file(MANIFEST))
    names = [name for name in (CONDITIONER, DECODER_LOOP, WEIGHTS, UPSAMPLING) if name in files]
    settings = [dataclasses.asdict(directory.model), dataclasses.asdict(directory.audio)]
    content = json.dumps([*(files[name]["sha256"] for name in names), *settings])
    return hashlib.sha256(content.encode()).hexdigest()
