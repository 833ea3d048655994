"""On what a benchmark ran."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("onnxruntime", "torch", "numpy")
_OPTIONAL = ("univoc", "torchaudio", "tensorrt-rtx", "tensorrt", "cuda-bindings")
"""Told only where they are installed."""


def describe_machine() -> dict[str, Any]:
    """CPU model, cores and memory, and the system."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str | None]:
    """Versions of what is measured; ``None`` where it is expected and not installed."""
    import wavernn_trt

    packages = {name: _version(name) for name in _PACKAGES}
    optional = {name: version for name in _OPTIONAL if (version := _version(name))}
    return {"python": platform.python_version(), "wavernn-trt": wavernn_trt.__version__, **packages, **optional}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes() -> int | None:
    """Memory that this process has resident now; ``None`` where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class MachineWatch:
    """How much of the machine other processes take while something is measured."""

    def __init__(self) -> None:
        """Begins to watch."""
        self._began = self._read()

    def others_share(self) -> float | None:
        """Share of all cores' time that others took since the beginning; ``None`` where the system does not tell."""
        if self._began is None or (now := self._read()) is None:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._began, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else None

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds of all cores together: all, busy, and this process's with those of its children that ended."""
        try:
            words = Path("/proc/stat").read_text().splitlines()[0].split()
            user, nice, system, idle, waiting, *rest = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9])
        except (OSError, ValueError, IndexError):
            return None
        busy = user + nice + system + sum(rest)
        return busy + idle + waiting, busy, sum(os.times()[:4])


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # no such names outside POSIX
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
