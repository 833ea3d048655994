"""What nvidia-smi tells. It is not here: a little program of that name, in a temporary folder, stands in for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wavernn_trt.scripts.bench.gpu_state import FIELDS, describe_gpu, query_gpu, read_gpu
from wavernn_trt.scripts.bench.heading import heading

TOLD = {
    "name": "NVIDIA Pretended 4000",
    "driver_version": "999.1",
    "clocks.sm": "1200 MHz",
    "clocks.mem": "5001 MHz",
    "clocks.max.sm": "2100 MHz",
    "clocks.max.mem": "7001 MHz",
    "temperature.gpu": "61",
    "power.draw": "70.25 W",
    "power.limit": "72.00 W",
    "clocks_event_reasons.active": "0x0000000000000024",
}
PROGRAM = """\
#!{python}
import sys
told = {told!r}
query = next(word for word in sys.argv if word.startswith("--query-gpu="))
fields = query.partition("=")[2].split(",")
if unknown := [field for field in fields if field not in told]:
    sys.exit(f"Field {{unknown[0]!r}} is not a valid field to query.")
print(", ".join(told[field] for field in fields))
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function (what it tells) that puts a stand-in for nvidia-smi first on PATH."""
    import sys

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def put(told: dict[str, str]) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(PROGRAM.format(python=sys.executable, told=told))
        program.chmod(0o755)

    return put


@pytest.mark.parametrize(("visible", "asked"), [("", "0"), ("3,1", "3"), ("GPU-8f", "GPU-8f")])
def test_the_gpu_that_cuda_shows_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, asked: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\nfor word; do case $word in --id=*) echo "${word#--id=}";; esac; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert query_gpu(["name"]) == {"name": asked}


def test_clocks_power_and_what_holds_them_back_are_read(smi: Callable[..., None]) -> None:
    smi(TOLD)
    assert read_gpu() == {
        "name": "NVIDIA Pretended 4000",
        "driver": "999.1",
        "sm_clock_mhz": 1200.0,
        "memory_clock_mhz": 5001.0,
        "largest_sm_clock_mhz": 2100.0,
        "largest_memory_clock_mhz": 7001.0,
        "temperature_celsius": 61.0,
        "power_watts": 70.25,
        "power_limit_watts": 72.0,
        "reasons": ["power cap", "software thermal slowdown"],
    }


def test_a_field_that_is_missing_is_null(smi: Callable[..., None]) -> None:
    told = {name: value for name, value in TOLD.items() if name not in ("power.limit", "clocks_event_reasons.active")}
    smi({**told, "power.draw": "[N/A]", "temperature.gpu": "[Not Supported]"})
    state = read_gpu()
    assert state is not None
    missing = {name for name, value in state.items() if value is None}
    assert missing == {"power_limit_watts", "power_watts", "temperature_celsius", "reasons"}


def test_older_drivers_are_asked_by_their_own_names(smi: Callable[..., None]) -> None:
    told = {**TOLD, "clocks_throttle_reasons.active": "0x0000000000000008"}
    del told["clocks_event_reasons.active"]
    smi(told)
    state = read_gpu()
    assert state is not None
    assert state["reasons"] == ["hardware slowdown"]


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [("0x0", []), ("0x1", []), ("0x41", ["hardware thermal slowdown"]), ("0x8001", ["0x8000"])],
)
def test_idleness_holds_nothing_back(smi: Callable[..., None], bits: str, reasons: list[str]) -> None:
    smi({**TOLD, "clocks_event_reasons.active": bits})
    state = read_gpu()
    assert state is not None
    assert state["reasons"] == reasons
    described = describe_gpu(None, state)
    assert described is not None
    assert described["throttled"] == reasons


def test_a_program_that_fails_tells_nothing(smi: Callable[..., None]) -> None:
    smi({})
    assert read_gpu() is None
    assert query_gpu(("name",)) is None


def test_without_the_program_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpu() is None
    assert describe_gpu(None, None) is None


def test_a_report_says_that_a_gpu_was_throttled(
    smi: Callable[..., None], bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    import json

    smi(TOLD)
    options = ("--backend", "onnxruntime", "--peers", "none", "--batch", "1", "--seconds", "0.04", "--repeats", "1")
    code, out, _ = bench(*options, "-q", "--json", tmp_path / "bench.json")
    assert code == 0
    report: dict[str, Any] = json.loads((tmp_path / "bench.json").read_text())
    assert set(report["gpu"]["before"]) == set(FIELDS)
    assert report["gpu"]["throttled"] == ["power cap", "software thermal slowdown"]
    assert "throttled power cap, software thermal slowdown: figures are below" in out
    assert "SM 1200 of 2100 MHz" in out
    report["gpu"]["throttled"] = []
    assert not any(line.startswith("throttled") for line in heading(report))
