"""What nvidia-smi tells of the GPU in use: its name, clocks, temperature, power, and what holds it back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "largest_sm_clock_mhz": "clocks.max.sm",
    "largest_memory_clock_mhz": "clocks.max.mem",
    "temperature_celsius": "temperature.gpu",
    "power_watts": "power.draw",
    "power_limit_watts": "power.limit",
    "reasons": "clocks_event_reasons.active",
}
"""What each is called in a report, and by nvidia-smi."""
_OLDER = {"clocks_event_reasons.active": "clocks_throttle_reasons.active"}
"""What drivers before 535 call a field."""
_WORDS = ("name", "driver")
_IDLE = 1
_REASONS = {
    0x2: "clocks set by an application",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "clocks set for a display",
}
_PATIENCE = 20.0
"""Seconds that nvidia-smi may take."""


def read_gpu() -> dict[str, Any] | None:
    """The GPU's state by the names of `FIELDS`, ``None`` for what it does not tell; ``None`` without nvidia-smi.

    Numbers are numbers; ``reasons`` is a list of what holds the clocks back, idleness apart.
    """
    told = query_gpu(tuple(FIELDS.values()))
    if not told:
        return None
    state: dict[str, Any] = {}
    for key, field in FIELDS.items():
        text = told.get(field)
        state[key] = text if key in _WORDS else _reasons(text) if key == "reasons" else _number(text)
    return state


def query_gpu(fields: Sequence[str]) -> dict[str, str] | None:
    """What nvidia-smi says to some fields, with units; those that it does not know or tell are left out.

    It knows nothing of ``CUDA_VISIBLE_DEVICES``: the first GPU of those, or of all, is asked for.

    ``None`` where it is not there, does not answer, or finds no GPU.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    told = _ask(program, fields)
    if told is None:  # one at a time, since drivers differ in the names that they know
        told = {}
        for field in fields:
            for name in filter(None, (field, _OLDER.get(field))):
                if answer := _ask(program, (name,)):
                    told[field] = answer[name]
                    break
    told = {name: value for name, value in told.items() if not value.startswith("[") and value != "N/A"}
    return told or None


def describe_gpu(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """For a report: both states, and all that held the clocks back in one of them."""
    if before is None and after is None:
        return None
    reasons = [reason for state in (before, after) if state for reason in state["reasons"] or ()]
    return {"before": before, "after": after, "throttled": list(dict.fromkeys(reasons))}


def _ask(program: str, fields: Sequence[str]) -> dict[str, str] | None:
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={_first_gpu()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(fields, values, strict=True)) if done.returncode == 0 and len(values) == len(fields) else None


def _first_gpu() -> str:
    """The number or UUID of the GPU that a process uses unless told otherwise."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").split()[0])
    except (IndexError, ValueError):
        return None


def _reasons(text: str | None) -> list[str] | None:
    try:
        bits = int(text or "", 16)
    except ValueError:
        return None
    known = [name for bit, name in _REASONS.items() if bits & bit]
    other = bits & ~(_IDLE | sum(_REASONS))
    return known + ([f"{other:#x}"] if other else [])
