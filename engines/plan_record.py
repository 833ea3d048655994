"""The record of a plan: the ``.json`` file beside it in the cache."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from wavernn_trt.engines.spec import Backend, Form, Role
from wavernn_trt.export.config import ConfigError, require
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.typed_json import from_json

SCHEMA_VERSION = 1
"""Version of the file; other versions are refused."""

_LARGEST = 4 << 20
"""Largest accepted file in bytes; a real record has a few thousand."""
_LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Binding:
    """An input or output of a plan."""

    name: str
    kind: Literal["input", "output"]
    dtype: str
    """A numpy type, or ``bfloat16``."""
    shape: tuple[int, ...]
    """-1 where the size is dynamic."""
    profile: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
    """Smallest, optimal and largest shape of an input with a dynamic size."""

    def __post_init__(self) -> None:
        _require_text(f"bindings.{self.name[:60]!r}", self.name, self.dtype)
        where = f"bindings.{self.name}"
        require(all(size >= -1 for size in self.shape), f"{where}.shape", self.shape, "sizes, or -1")
        for shape in self.profile or ():
            fits = len(shape) == len(self.shape) and all(
                wanted in (size, -1) and size >= 0 for size, wanted in zip(shape, self.shape, strict=True)
            )
            require(fits, f"{where}.profile", shape, f"a shape like {self.shape}")


@dataclass(frozen=True)
class PluginUse:
    """A plugin that a plan calls; it must be registered before the plan is deserialised."""

    name: str
    version: str
    namespace: str
    count: int
    """Number of nodes."""

    def __post_init__(self) -> None:
        _require_text("plugins", self.name, self.version)
        _require_text("plugins", self.namespace, empty=True)
        require(self.count >= 1, f"plugins.{self.name}.count", self.count, "at least 1")


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Description of a plan: key, inputs of the build, bindings, hash.

    Files of a cache are untrusted: every value is checked, and no name in a record is ever used as a path.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    """64 hexadecimal digits; see `wavernn_trt.engines.plan_names.plan_key`."""
    role: Role
    model: str
    """The model directory's name at the time of the build, for display; see `clean_name`."""
    model_sha256: str
    """SHA-256 of the model directory's ``manifest.json``."""
    backend: Backend
    backend_version: str
    targets: tuple[str, ...]
    """``sm86``, or the GPU's name and compute capability for a plan that runs on that GPU model only."""
    precision: Precision
    form: Form | None
    """``None`` for a conditioner."""
    batch: tuple[int, int, int]
    """Streams: smallest, optimal, largest."""
    steps: int | None
    """Samples of a chunk; ``None`` for a conditioner."""
    window: int | None
    """Rows of conditioning that a chunk may read; ``None`` for a conditioner."""
    frames: tuple[int, int, int] | None
    """Frames of mel, smallest, optimal, largest; ``None`` for a decoder."""
    bindings: tuple[Binding, ...]
    plugins: tuple[PluginUse, ...]
    layers: dict[str, int]
    """Number of layers of each type before TensorRT fused them."""
    precisions: dict[str, dict[str, int]]
    """For each layer type, the number of layers with outputs of each dtype."""
    products: dict[str, str] | None = None
    """The precision of each of a step's matrix products in the network: ``int8``, ``fp8``, ``int8 weights`` or ``fp8
    weights`` where only the weights are, ``fp16``, ``bf16``, ``fp32``. ``None`` for a conditioner and in files of
    earlier versions."""
    build_seconds: float
    peak_bytes: int
    """Peak resident memory of the build process."""
    built_at: str
    """ISO 8601 with a time zone."""
    graph_sha256: str
    """SHA-256 of the ONNX graph, weights included."""
    kernels_sha256: str
    """SHA-256 of the plugins' sources."""
    builder: str
    """Name and version of the program, ``wavernn-trt 1.2``."""
    plan_sha256: str
    plan_bytes: int

    def __post_init__(self) -> None:
        _require_version(self.schema_version)
        for name in ("key", "model_sha256", "graph_sha256", "kernels_sha256", "plan_sha256"):
            value = getattr(self, name)
            require(re.fullmatch("[0-9a-f]{64}", value) is not None, name, value, "64 hexadecimal digits")
        for name in ("model", "backend_version", "builder"):
            _require_text(name, getattr(self, name))
        require(clean_name(self.model) == self.model, "model", self.model, "a name without path separators")
        _require_text("targets", *self.targets)
        require(bool(self.targets), "targets", self.targets, "at least one")
        for name in ("batch", "frames"):
            value = getattr(self, name)
            ordered = value is None or 1 <= value[0] <= value[1] <= value[2]
            require(ordered, name, value, "smallest, optimal and largest, in rising order")
        for name in ("steps", "window"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(0 <= self.build_seconds < math.inf, "build_seconds", self.build_seconds, "at least 0, and finite")
        require(self.peak_bytes >= 0, "peak_bytes", self.peak_bytes, "at least 0")
        require(self.plan_bytes >= 1, "plan_bytes", self.plan_bytes, "at least 1")
        decoder = self.role == "decoder"
        for name, wanted in (("form", decoder), ("steps", decoder), ("window", decoder), ("frames", not decoder)):
            value = getattr(self, name)
            require((value is not None) == wanted, name, value, f"{'a' if wanted else 'no'} value for a {self.role}")
        _require_text("products", *(self.products or {}), *(self.products or {}).values())
        types = (name for counts in self.precisions.values() for name in counts)
        _require_text("layers", *self.layers, *self.precisions, *types)
        try:
            aware = datetime.fromisoformat(self.built_at.replace("Z", "+00:00")).tzinfo is not None
        except ValueError:
            aware = False
        require(aware, "built_at", self.built_at, "an ISO 8601 time with its time zone")

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> PlanRecord:
        """Returns the record from the values of `to_json`.

        Raises:
            ConfigError: the field, the found value and the expected one.
        """
        if isinstance(values, dict) and "schema_version" in values:  # checked before unknown fields are
            _require_version(values["schema_version"])
        return from_json(cls, values, "record")


def read_record(path: Path) -> PlanRecord:
    """Reads a plan's file.

    Raises:
        ConfigError: it does not describe a plan.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ConfigError(f"more than {_LARGEST} bytes, which no record has")
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}") from None
    return PlanRecord.from_json(values)


def write_record(path: Path, record: PlanRecord) -> None:
    """Writes a plan's file, down to the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record.to_json(), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def clean_name(text: str) -> str:
    """Returns a name that is valid in a record and in a file's name: letters, digits and ``_ . + -``."""
    name = re.sub(r"[^\w.+-]+", "-", text).lstrip(".-")
    # File systems limit a name's bytes, and the cache appends to this one.
    return name.encode(errors="ignore")[:180].decode(errors="ignore") or "model"


def _require_version(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"schema version {version!r:.60}, this wavernn-trt reads {SCHEMA_VERSION}; build the plan again"
        )


def _require_text(where: str, *texts: str, empty: bool = False) -> None:
    """Refuses texts that are empty, too long or not printable, since terminals show them."""
    for text in texts:
        right = text.isprintable() and len(text) <= _LONGEST_TEXT and (empty or bool(text))
        require(right, where, text, f"1 to {_LONGEST_TEXT} printable characters")
