"""Formats the plans of the cache as text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from wavernn_trt.engines.cache_entries import CacheEntry
from wavernn_trt.engines.cache_folder import readable_size
from wavernn_trt.engines.plan_record import Binding, PlanRecord

_HEAD = ("role", "precision", "form", "batch", "steps", "targets", "size", "used", "name")
_RIGHT = ("batch", "steps", "size", "used")


def entry_json(entry: CacheEntry) -> dict[str, Any]:
    """Returns a plan as JSON values; ``manifest`` is its record."""
    return {
        "name": entry.name,
        "plan": str(entry.plan),
        "bytes": entry.bytes,
        "used_at": datetime.fromtimestamp(entry.used, timezone.utc).isoformat(timespec="seconds"),
        "state": entry.state,
        "reason": entry.reason,
        "manifest": None if entry.record is None else entry.record.to_json(),
    }


def print_table(entries: Sequence[CacheEntry]) -> None:
    """Prints one line per plan, and below it the reason if the plan is damaged. Names come last, as they are long."""
    rows = [_HEAD, *(_row_of(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row, entry in zip(rows, (None, *entries), strict=True):
        cells = (
            f"{text:>{width}}" if head in _RIGHT else f"{text:<{width}}"
            for text, width, head in zip(row, widths, _HEAD, strict=True)
        )
        print("  ".join(cells).rstrip())
        if entry is not None and entry.reason is not None:
            print(f"  {entry.state}: {_printable(entry.reason)}")
    total = readable_size(sum(entry.bytes for entry in entries))
    print(f"{len(entries)} plan{'s' * (len(entries) != 1)}, {total}, in {entries[0].folder}")


def print_entry(entry: CacheEntry) -> None:
    """Prints all details of a plan."""
    print(entry.name)
    _row("state", "whole, its SHA-256 matches" if entry.state == "whole" else f"{entry.state}: {entry.reason}")
    _row("plan", entry.plan)
    _row("size", f"{entry.bytes:,} bytes with its record")
    _row("used", f"{_age(entry)} ago")
    if entry.record is not None:
        _print_record(entry.record)


def describe_products(products: Mapping[str, str]) -> str:
    """Groups products by precision, as in ``int8: recurrent_0, output; fp16: fc_0``; one precision stands alone."""
    by_precision: dict[str, list[str]] = {}
    for name, precision in products.items():
        by_precision.setdefault(precision, []).append(name)
    if len(by_precision) == 1:
        return next(iter(by_precision))
    return "; ".join(f"{precision}: {', '.join(names)}" for precision, names in by_precision.items())


def _print_record(record: PlanRecord) -> None:
    _section("engine")
    _row("role", record.role)
    _row("model", record.model)
    _row("", f"SHA-256 of the model's manifest {record.model_sha256}")
    _row("built with", f"{record.backend} {record.backend_version}, {record.builder}")
    _row("runs on", ", ".join(record.targets))
    _row("precision", record.precision)
    if record.form is not None:
        _row("form", record.form)
        _row("chunk", f"{record.steps} steps, {record.window} rows of conditioning")
        _row("batch", _extent(record.batch))
    if record.frames is not None:
        _row("frames", _extent(record.frames))
    _section("bindings")
    for binding in record.bindings:
        print(f"  {binding.kind:<7} {binding.name:<20} {binding.dtype:<9} {_shape(binding.shape)}{_profile(binding)}")
    if record.products:
        _section("products of a step, in TensorRT's network")
        for name, precision in record.products.items():
            _row(name, precision)
    _section("plugins")
    for plugin in record.plugins:
        _row(plugin.name, f"version {plugin.version}, namespace {plugin.namespace!r}, {_nodes(plugin.count)}")
    if not record.plugins:
        print("  none")
    _section("layers of the network")
    for layer, count in sorted(record.layers.items(), key=lambda item: (-item[1], item[0])):
        kinds = ", ".join(f"{number} {kind}" for kind, number in record.precisions.get(layer, {}).items())
        print(f"  {layer:<24} {count:>7}  {kinds}".rstrip())
    _section("build")
    _row("at", record.built_at)
    _row("took", f"{record.build_seconds:.1f} s, peak memory {readable_size(record.peak_bytes)}")
    for name in ("key", "plan_sha256", "graph_sha256", "kernels_sha256"):
        _row(name, getattr(record, name))


def _row_of(entry: CacheEntry) -> tuple[str, ...]:
    record, size = entry.record, readable_size(entry.bytes)
    if record is None:
        return ("?",) * 6 + (size, _age(entry), entry.name)
    decoder = record.role == "decoder"
    return (
        record.role,
        record.precision,
        record.form or "-",
        _extent(record.batch) if decoder else "-",
        str(record.steps or "-"),
        _targets(record.targets),
        size,
        _age(entry),
        entry.name,
    )


def _targets(targets: Iterable[str]) -> str:
    names = list(targets)
    if all(name.startswith("sm") for name in names):
        return "sm" + "+".join(name.removeprefix("sm") for name in names)
    return ", ".join(names)


def _extent(extent: tuple[int, int, int]) -> str:
    return str(extent[0]) if extent[0] == extent[2] else ":".join(map(str, extent))


def _shape(shape: Iterable[int]) -> str:
    return "[" + ", ".join("?" if size == -1 else str(size) for size in shape) + "]"


def _profile(binding: Binding) -> str:
    if binding.profile is None:
        return ""
    return "  from {} over {} to {}".format(*map(_shape, binding.profile))


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _age(entry: CacheEntry) -> str:
    seconds = max(0.0, time.time() - entry.used)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _printable(text: str) -> str:
    """Replaces control characters, so that text from a damaged file cannot control the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _section(title: str) -> None:
    print(f"\n{title}")


def _row(name: str, value: object) -> None:
    print(f"  {name:<20} {_printable(str(value))}")
