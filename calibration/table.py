"""The calibration table: how large a model's activations are, and what bounds follow for each grid.

A JSON file. For each product it has the number of values that were seen, the largest magnitude among them, and the
bound (`wavernn_trt.export.quantization.Product.bound`) that each method finds for each grid. It says which model and
which inputs it is of, by hashes, and is the same file however often it is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.config import to_json
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

SCHEMA_VERSION = 1
"""Of the file; a reader refuses versions it does not know."""
Method = Literal["minmax", "percentile", "entropy", "mse"]
"""How a bound is found; see `wavernn_trt.calibration.bounds`."""
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_METHODS: Mapping[Grid, Method] = {"int8": "percentile", "fp8": "mse"}
"""What lost the least on two trained models. Rare large values are worth less than a mean of squares says: cutting them
makes int8's steps finer for all others, while fp8's steps near zero are fine wherever it ends."""


@dataclass(frozen=True)
class ActivationRange:
    """The inputs of one product."""

    values: int
    """How many were seen."""
    largest: float
    """The largest magnitude among them."""
    bounds: Mapping[Grid, Mapping[Method, float]]
    """For each grid that is scaled, the bound that each method finds."""


@dataclass(frozen=True)
class CalibrationInput:
    """What was run."""

    name: str
    """Of the file, without its folder."""
    sha256: str
    """Of its content."""
    samples: int
    """Steps that were run of it."""


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of one model's activations over some inputs."""

    model: str
    """`model_hash` of the model."""
    source: str
    """The checkpoint that it was made from, for people to read."""
    forced: bool
    """Whether the samples were a recording's (teacher-forced), else the model's own."""
    seed: int | None
    """Of the model's own samples."""
    inputs: tuple[CalibrationInput, ...]
    """In the order of their names and hashes."""
    ranges: Mapping[str, ActivationRange]
    """By product."""

    def quantization(self, grid: Grid, method: Method | None = None, *, kept: Collection[str] = ()) -> Quantization:
        """What the model's products are to be rounded to.

        Args:
            grid: of all products; one that is scaled.
            method: which bounds to take; ``None`` is the grid's of `DEFAULT_METHODS`.
            kept: products to leave in float32.

        Raises:
            CalibrationError: ``kept`` names a product that is not in the table.
        """
        for name in kept:
            if name not in self.ranges:
                raise CalibrationError(f"keep: found {name!r}, expected some of {', '.join(self.ranges)}")
        chosen = method or DEFAULT_METHODS[grid]
        products = {
            name: Product(grid, one.bounds[grid][chosen]) for name, one in self.ranges.items() if name not in kept
        }
        return Quantization(products, self.sha256)

    def check(self, directory: ModelDirectory) -> None:
        """Refuses a directory that the table is not of.

        Raises:
            CalibrationError: it is another model's.
        """
        found = model_hash(directory)
        if found != self.model or tuple(self.ranges) != product_names(directory.model):
            raise CalibrationError(
                f"the table is of another model ({self.source}, {self.model[:12]}…) than {directory.path} "
                f"({directory.source.get('checkpoint', 'unknown')}, {found[:12]}…); make one of this with: "
                f"wavernn-trt calibrate {directory.path} SPEECH -o TABLE"
            )

    @property
    def sha256(self) -> str:
        """Of the file's content."""
        return hashlib.sha256(self._content().encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_atomic(path, self._content().encode())

    def _content(self) -> str:
        return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"


def read_table(path: Path) -> CalibrationTable:
    """Reads a table.

    Raises:
        CalibrationError: it is not one, or of another version.
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
        inputs = tuple(CalibrationInput(**one) for one in values.pop("inputs"))
        ranges = {str(name): ActivationRange(**one) for name, one in values.pop("ranges").items()}
        table = CalibrationTable(**values, inputs=inputs, ranges=ranges)
        for name, one in ranges.items():
            for grid in LARGEST:
                for method in METHODS:
                    bound = one.bounds[grid][method]
                    number = isinstance(bound, int | float) and not isinstance(bound, bool)
                    if not number or not math.isfinite(bound) or bound <= 0:
                        raise ValueError(f"{name}: the {method} bound of {grid} is {bound!r}")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{path}: damaged ({error}); {again}") from None
    return table


def model_hash(directory: ModelDirectory) -> str:
    """What a table belongs to: SHA-256 over what computes the activations, and the mels of recordings."""
    files: dict[str, Any] = read_manifest(directory.file(MANIFEST))
    names = [name for name in (CONDITIONER, DECODER_LOOP, WEIGHTS, UPSAMPLING) if name in files]
    settings = [to_json(directory.model), to_json(directory.audio)]
    content = json.dumps([*(files[name]["sha256"] for name in names), *settings])
    return hashlib.sha256(content.encode()).hexdigest()
