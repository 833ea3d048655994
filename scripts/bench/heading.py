"""The lines above every report: what ran on what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BUSY = 0.05
"""Share of all cores above which other processes' work is worth a warning."""


def heading(report: dict[str, Any]) -> Iterator[str]:
    """Machine, versions, other processes, GPU and model."""
    machine, model = report["machine"], report["model"]
    memory = f", {machine['memory_gib']} GiB memory" if machine["memory_gib"] else ""
    cores = f"{machine['cores']} cores ({machine['usable_cores']} usable)"
    yield f"machine   {machine['cpu']}, {cores}{memory}, {machine['system']}"
    versions = (f"{name} {version or '(not installed)'}" for name, version in report["versions"].items())
    yield f"versions  {', '.join(versions)}"
    if report.get("date"):
        yield f"date      {report['date']}"
    if report.get("others_share") is not None:
        busy = "" if report["others_share"] < BUSY else ": a quiet machine will say something else"
        yield f"busy      other processes took {100 * report['others_share']:.0f} % of all cores meanwhile{busy}"
    yield from _gpu(report.get("gpu"))
    layers = f"{model['layers']} x GRU {model['hidden_size']}, {'/'.join(map(str, model['fc_sizes']))} -> "
    flop = f"{2 * model['multiply_adds'] / 1e6:.2f} MFLOP a sample"
    weights = " (random weights)" if model.get("random") else ""
    yield (
        f"model     {model['name']}{weights}: {model['family']}, {layers}{model['outputs']}, "
        f"{model['sample_rate']} Hz, {flop}"
    )


def _gpu(gpu: dict[str, Any] | None) -> Iterator[str]:
    if gpu is None:
        return
    known = gpu["before"] or gpu["after"]
    yield f"gpu       {known['name'] or 'of an unknown name'}, driver {known['driver'] or '(not told)'}"
    for name in ("before", "after"):
        if state := gpu[name]:
            clocks = (
                f"SM {_told(state['sm_clock_mhz'])} of {_told(state['largest_sm_clock_mhz'])} MHz, memory "
                f"{_told(state['memory_clock_mhz'])} of {_told(state['largest_memory_clock_mhz'])} MHz"
            )
            power = f"{_told(state['power_watts'])} of {_told(state['power_limit_watts'])} W"
            yield f"  {name:<8}{clocks}, {_told(state['temperature_celsius'])} °C, {power}"
    if gpu["throttled"]:
        yield f"throttled {', '.join(gpu['throttled'])}: figures are below what this GPU can do"


def _told(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
