"""What is known about a plan without opening it: the sidecar that lies beside it in the cache."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from wavernn_trt.engines.spec import Backend, Form, Role
from wavernn_trt.engines.typed_json import from_json
from wavernn_trt.export.operators import Precision

SCHEMA_VERSION = 1
"""Version of the sidecar; a reader refuses versions it does not know."""

_LARGEST = 4 << 20
"""Bytes of a sidecar that are read at most; a real one has a few thousand."""
_LONGEST_TEXT = 1000


class ManifestError(ValueError):
    """A sidecar that describes no plan: names the field, what was found and what was expected."""


@dataclass(frozen=True)
class Binding:
    """An input or output of a plan."""

    name: str
    kind: Literal["input", "output"]
    dtype: str
    """As numpy calls it, or ``bfloat16``."""
    shape: tuple[int, ...]
    """-1 where the size is dynamic."""
    profile: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
    """Smallest, optimal and largest shape, of an input with a dynamic size."""

    def __post_init__(self) -> None:
        """Refuses shapes that contradict each other."""
        _require_text(f"bindings.{self.name[:60]!r}", self.name, self.dtype)
        where = f"bindings.{self.name}"
        _require(all(size >= -1 for size in self.shape), f"{where}.shape", self.shape, "sizes, or -1")
        for shape in self.profile or ():
            fits = len(shape) == len(self.shape) and all(
                wanted in (size, -1) and size >= 0 for size, wanted in zip(shape, self.shape, strict=True)
            )
            _require(fits, f"{where}.profile", shape, f"a shape like {self.shape}")


@dataclass(frozen=True)
class PluginUse:
    """A plugin that a plan calls, and that must be registered before it is deserialised."""

    name: str
    version: str
    namespace: str
    count: int
    """Nodes."""

    def __post_init__(self) -> None:
        """Refuses what names no plugin."""
        _require_text("plugins", self.name, self.version)
        _require_text("plugins", self.namespace, empty=True)
        _require(self.count >= 1, f"plugins.{self.name}.count", self.count, "at least 1")


@dataclass(frozen=True, kw_only=True)
class PlanManifest:
    """Everything that a plan's sidecar says.

    Plans are data from a disk: values are checked when one is made, by whatever way, and no name in here is ever used
    as a path.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    """64 hexadecimal digits: the hash of everything that the plan depends on."""
    role: Role
    model: str
    """The model directory's name when the plan was built, for people; see `clean_name`."""
    model_sha256: str
    """Of the model directory's ``manifest.json``."""
    backend: Backend
    backend_version: str
    targets: tuple[str, ...]
    """``sm86``, or the GPU's name and compute capability for a plan that runs on that GPU alone."""
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
    """How many layers of each type the network had, before TensorRT fused them."""
    precisions: dict[str, dict[str, int]]
    """For each layer type, how many layers have outputs of each dtype."""
    products: dict[str, str] | None = None
    """The precision of each of a step's matrix products, as the network had it: ``int8``, ``fp8``, ``int8 weights`` or
    ``fp8 weights`` where only these are, ``fp16``, ``bf16``, ``fp32``. ``None`` for a conditioner, and in manifests
    that were written before this was noted."""
    build_seconds: float
    peak_bytes: int
    """Resident memory of the building process, at its highest."""
    built_at: str
    """ISO 8601, with its time zone."""
    graph_sha256: str
    """Of the ONNX graph that TensorRT was given, weights included."""
    kernels_sha256: str
    """Of the plugins' sources."""
    builder: str
    """Which wavernn-trt built it."""
    plan_sha256: str
    plan_bytes: int

    def __post_init__(self) -> None:
        """Refuses values that no plan has."""
        if self.schema_version != SCHEMA_VERSION:
            raise ManifestError(
                f"schema version {self.schema_version}, this wavernn-trt reads {SCHEMA_VERSION}; build the plan again"
            )
        for name in ("key", "model_sha256", "graph_sha256", "kernels_sha256", "plan_sha256"):
            value = getattr(self, name)
            _require(re.fullmatch("[0-9a-f]{64}", value) is not None, name, value, "64 hexadecimal digits")
        for name in ("model", "backend_version", "builder"):
            _require_text(name, getattr(self, name))
        _require(clean_name(self.model) == self.model, "model", self.model, "a name without path separators")
        _require_text("targets", *self.targets)
        _require(bool(self.targets), "targets", self.targets, "at least one")
        for name in ("batch", "frames"):
            value = getattr(self, name)
            ordered = value is None or 1 <= value[0] <= value[1] <= value[2]
            _require(ordered, name, value, "smallest, optimal and largest, in rising order")
        for name in ("steps", "window"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        for name in ("build_seconds", "peak_bytes"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _require(self.plan_bytes >= 1, "plan_bytes", self.plan_bytes, "at least 1")
        _require_role(self)
        _require_text("products", *(self.products or {}), *(self.products or {}).values())
        _require_text(
            "layers", *self.layers, *self.precisions, *(t for types in self.precisions.values() for t in types)
        )
        try:
            aware = datetime.fromisoformat(self.built_at.replace("Z", "+00:00")).tzinfo is not None
        except ValueError:
            aware = False
        _require(aware, "built_at", self.built_at, "an ISO 8601 time with its time zone")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> PlanManifest:
        """From what `to_json` gave.

        Raises:
            ManifestError: which field is wrong, what was found and what was expected.
        """
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version is not None and version != SCHEMA_VERSION:  # said before fields of that version are called unknown
            found = repr(version)[:60]
            raise ManifestError(
                f"schema version {found}, this wavernn-trt reads {SCHEMA_VERSION}; build the plan again"
            )
        try:
            return from_json(cls, values, "manifest")
        except ManifestError:
            raise
        except ValueError as error:
            raise ManifestError(str(error)) from None


def read_manifest(path: Path) -> PlanManifest:
    """Reads a sidecar.

    Raises:
        ManifestError: it is not one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ManifestError(f"more than {_LARGEST} bytes, which no manifest has")
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not JSON: {error}") from None
    return PlanManifest.from_json(values)


def write_manifest(path: Path, manifest: PlanManifest) -> None:
    """Writes a sidecar, down to the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest.to_json(), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def clean_name(text: str) -> str:
    """A name that is fit to stand in a manifest and in a file's name: letters, digits and ``_ . + -``."""
    name = re.sub(r"[^\w.+-]+", "-", text).lstrip(".-")
    # File systems count bytes; what a cache adds has to fit behind it.
    return name.encode(errors="ignore")[:180].decode(errors="ignore") or "model"


def _require_role(manifest: PlanManifest) -> None:
    decoder = manifest.role == "decoder"
    for name, wanted in (("form", decoder), ("steps", decoder), ("window", decoder), ("frames", not decoder)):
        value = getattr(manifest, name)
        _require((value is not None) == wanted, name, value, f"{'a' if wanted else 'no'} value for a {manifest.role}")


def _require_text(where: str, *texts: str, empty: bool = False) -> None:
    """Printable: whatever stands in a sidecar is shown on a terminal some day."""
    for text in texts:
        right = text.isprintable() and len(text) <= _LONGEST_TEXT and (empty or bool(text))
        _require(right, where, text, f"1 to {_LONGEST_TEXT} printable characters")


def _require(condition: bool, field: str, found: object, expected: str) -> None:
    if not condition:
        text = repr(found)
        text = text if len(text) <= 70 else text[:67] + "..."
        raise ManifestError(f"{field}: found {text}, expected {expected}")
