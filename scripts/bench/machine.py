"""Facts about the machine of a benchmark: CPU, memory, GPU, versions, and the load of other processes."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pynvml

import wavernn_trt
from wavernn_trt.runtime.executors.onnx_runtime import usable_cores
from wavernn_trt.scripts.bench.report_file import SCHEMA

_PACKAGES = ("onnxruntime", "torch", "numpy")
_OPTIONAL = ("openvino", "univoc", "torchaudio", "tensorrt-rtx", "tensorrt", "cuda-bindings")
"""Listed only if installed."""
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
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
"""NVML's clock event reasons, without idleness."""
_IDLE = 0x1


def describe_machine() -> dict[str, Any]:
    """CPU model, cores and memory, and the system."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str | None]:
    """Versions of Python and the measured packages; ``None`` for a package of `_PACKAGES` that is not installed."""
    packages = {name: _version(name) for name in _PACKAGES}
    optional = {name: version for name in _OPTIONAL if (version := _version(name))}
    return {"python": platform.python_version(), "wavernn-trt": wavernn_trt.__version__, **packages, **optional}


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def largest_cache() -> int:
    """Bytes of the first core's largest cache; 0 if unknown."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    texts = [file.read_text().strip() for file in _CACHES.glob("index*/size")]
    return max((int(text[:-1]) * units[text[-1]] for text in texts if text[:-1].isdigit()), default=0)


class MachineWatch:
    """Measures the share of the CPU that other processes use."""

    def __init__(self) -> None:
        self._began = self._read()

    def others_share(self) -> float | None:
        """Share of all cores' time that other processes used since construction; ``None`` if no time has passed."""
        total, busy, own = (after - before for after, before in zip(self._read(), self._began, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else None

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds of all cores: total, busy, and used by this process and its ended children."""
        # Guests' time is part of the user time.
        times = {name: value for name, value in psutil.cpu_times()._asdict().items() if not name.startswith("guest")}
        total = sum(times.values())
        return total, total - times["idle"] - times.get("iowait", 0.0), sum(os.times()[:4])


class Circumstances:
    """The first entries of every report: date, machine, versions, and the load of other processes."""

    def __init__(self) -> None:
        self._date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._gpu = read_gpu()
        self._watch = MachineWatch()

    def describe(self, scenario: str) -> dict[str, Any]:
        """Returns the entries; called at the end of a measurement."""
        share = self._watch.others_share()
        return {
            "schema": SCHEMA,
            "scenario": scenario,
            "date": self._date,
            "machine": describe_machine(),
            "gpu": describe_gpu(self._gpu, read_gpu()),
            "others_share": share,
            "versions": describe_versions(),
        }


def read_gpu() -> dict[str, Any] | None:
    """State of the first GPU that is visible to this process; ``None`` without a GPU or driver.

    A value that the GPU does not report is ``None``. ``reasons`` lists what limits the clocks, except idleness.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        gpu, sm, memory = _first_gpu(), pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
        queries: dict[str, Callable[[], Any]] = {
            "name": lambda: pynvml.nvmlDeviceGetName(gpu),
            "driver": pynvml.nvmlSystemGetDriverVersion,
            "sm_clock_mhz": lambda: float(pynvml.nvmlDeviceGetClockInfo(gpu, sm)),
            "memory_clock_mhz": lambda: float(pynvml.nvmlDeviceGetClockInfo(gpu, memory)),
            "largest_sm_clock_mhz": lambda: float(pynvml.nvmlDeviceGetMaxClockInfo(gpu, sm)),
            "largest_memory_clock_mhz": lambda: float(pynvml.nvmlDeviceGetMaxClockInfo(gpu, memory)),
            "temperature_celsius": lambda: float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)),
            "power_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "power_limit_watts": lambda: pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000,
            "reasons": lambda: _reasons(gpu),
        }
        return {name: _value(query) for name, query in queries.items()}
    except (pynvml.NVMLError, ValueError):  # no such GPU
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def describe_gpu(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """Both states for a report, and the reasons that limited the clocks in any of them."""
    if before is None and after is None:
        return None
    reasons = [reason for state in (before, after) if state for reason in state["reasons"] or ()]
    return {"before": before, "after": after, "throttled": list(dict.fromkeys(reasons))}


def _first_gpu() -> Any:
    """NVML's handle of the first device in ``CUDA_VISIBLE_DEVICES`` (numbers or UUIDs), which NVML ignores."""
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    if name.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(name)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name))


def _value(query: Callable[[], Any]) -> Any:
    """A value of NVML; ``None`` if this GPU or driver does not support it."""
    try:
        return query()
    except pynvml.NVMLError:
        return None


def _reasons(gpu: Any) -> list[str]:
    try:
        bits = int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 535
        bits = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
    known = [name for bit, name in _REASONS.items() if bits & bit]
    other = bits & ~(_IDLE | sum(_REASONS))
    return known + ([f"{other:#x}"] if other else [])


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
