"""Facts about the machine, its GPU and other processes; most tests replace NVML's functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest

from wavernn_trt.scripts.bench import machine
from wavernn_trt.scripts.bench.machine import MachineWatch, describe_gpu, read_gpu, resident_bytes
from wavernn_trt.scripts.bench.report import lay_out

Bench = Callable[..., tuple[int, str, str]]
Answers = Callable[..., None]
STATE = {
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


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """A function (results of NVML's functions by name) that replaces these functions; an error is raised."""
    clocks = {pynvml.NVML_CLOCK_SM: (1200, 2100), pynvml.NVML_CLOCK_MEM: (5001, 7001)}
    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetHandleByUUID": "handle",
        "nvmlDeviceGetName": STATE["name"],
        "nvmlSystemGetDriverVersion": STATE["driver"],
        "nvmlDeviceGetClockInfo": lambda gpu, clock: clocks[clock][0],
        "nvmlDeviceGetMaxClockInfo": lambda gpu, clock: clocks[clock][1],
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 70250,
        "nvmlDeviceGetPowerManagementLimit": 72000,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x24,
    }

    def answer(value: Any, *arguments: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value(*arguments) if callable(value) else value

    def replace(**others: Any) -> None:
        for name, value in {**answers, **others}.items():
            monkeypatch.setattr(pynvml, name, lambda *arguments, value=value: answer(value, *arguments))

    return replace


@pytest.mark.parametrize(
    ("visible", "expected"), [("", ("Index", 0)), ("3,1", ("Index", 3)), ("GPU-8f", ("UUID", "GPU-8f"))]
)
def test_the_gpu_that_cuda_uses_is_described(
    nvml: Answers, monkeypatch: pytest.MonkeyPatch, visible: str, expected: tuple[str, object]
) -> None:
    found: list[tuple[str, object]] = []
    nvml(
        nvmlDeviceGetHandleByIndex=lambda index: found.append(("Index", index)),
        nvmlDeviceGetHandleByUUID=lambda uuid: found.append(("UUID", uuid)),
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert read_gpu() == STATE
    assert found == [expected]


def test_values_that_a_gpu_does_not_report_are_null(nvml: Answers) -> None:
    error = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    names = ("PowerManagementLimit", "PowerUsage", "Temperature", "CurrentClocksEventReasons")
    nvml(**{f"nvmlDeviceGet{name}": error for name in names})
    state = read_gpu()
    assert state is not None
    missing = {name for name, value in state.items() if value is None}
    assert missing == {"power_limit_watts", "power_watts", "temperature_celsius", "reasons"}


def test_older_drivers_are_called_by_the_former_name_of_a_function(nvml: Answers) -> None:
    nvml(
        nvmlDeviceGetCurrentClocksEventReasons=pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        nvmlDeviceGetCurrentClocksThrottleReasons=0x8,
    )
    state = read_gpu()
    assert state is not None
    assert state["reasons"] == ["hardware slowdown"]


@pytest.mark.parametrize(
    ("bits", "reasons"), [(0x0, []), (0x1, []), (0x41, ["hardware thermal slowdown"]), (0x8001, ["0x8000"])]
)
def test_an_idle_gpu_is_not_throttled(nvml: Answers, bits: int, reasons: list[str]) -> None:
    nvml(nvmlDeviceGetCurrentClocksEventReasons=bits)
    state = read_gpu()
    assert state is not None
    assert state["reasons"] == reasons
    described = describe_gpu(None, state)
    assert described is not None
    assert described["throttled"] == reasons


def test_without_a_driver_or_such_a_gpu_there_is_no_state(nvml: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(nvmlInit=pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert read_gpu() is None
    nvml(nvmlDeviceGetHandleByIndex=pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT))
    assert read_gpu() is None
    nvml()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    assert read_gpu() is None
    assert describe_gpu(None, None) is None


def test_a_real_gpu_has_a_name_and_clocks() -> None:
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        pytest.skip(f"NVML finds no GPU: {error}")
    state = read_gpu()
    assert count
    assert state is not None
    assert state["name"]
    assert state["driver"]
    assert 0 <= state["sm_clock_mhz"] <= state["largest_sm_clock_mhz"]


def test_a_report_has_the_reasons_why_a_gpu_was_throttled(nvml: Answers, bench: Bench, tmp_path: Path) -> None:
    nvml()
    options = ("--backend", "onnxruntime", "--peers", "none", "--batch", "1", "--seconds", "0.04", "--repeats", "1")
    code, out, _ = bench(*options, "-q", "--json", tmp_path / "bench.json")
    assert code == 0
    report: dict[str, Any] = json.loads((tmp_path / "bench.json").read_text())
    assert report["gpu"]["before"] == STATE
    assert report["gpu"]["throttled"] == ["power cap", "software thermal slowdown"]
    assert "throttled power cap, software thermal slowdown: this GPU can be faster" in out
    assert "SM 1200 of 2100 MHz, memory 5001 of 7001 MHz, 61 °C, 70.25 of 72 W" in out
    report["gpu"]["throttled"] = []
    report["gpu"]["before"]["power_watts"] = None
    lines = list(lay_out(report))
    assert not any(line.startswith("throttled") for line in lines)
    assert any("? of 72 W" in line for line in lines)


def test_the_share_of_other_processes_excludes_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 40.0, 10.0), (110.0, 49.0, 12.0)])
    monkeypatch.setattr(MachineWatch, "_read", staticmethod(lambda: next(readings)))
    assert MachineWatch().others_share() == pytest.approx(0.7)


def test_guest_time_is_counted_once_and_disk_waits_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"user": 50.0, "system": 10.0, "idle": 30.0, "iowait": 10.0, "guest": 20.0, "guest_nice": 0.0}
    found = type("Times", (), {"_asdict": lambda self: times})()
    monkeypatch.setattr(psutil, "cpu_times", lambda: found)
    assert MachineWatch._read()[:2] == (100.0, 60.0)


def test_the_machine_is_described() -> None:
    watch = MachineWatch()
    np.ones(100_000).sum()
    share = watch.others_share()
    assert share is None or 0 <= share <= 1
    assert 2**20 < resident_bytes() < 2**40
    described = machine.describe_machine()
    assert described["cores"] >= described["usable_cores"] >= 1
    assert described["memory_gib"] > 0
    assert described["cpu"]
