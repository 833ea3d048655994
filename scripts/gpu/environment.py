"""What the machine is, and what the kernels take of its GPU: compiled for it, with the compiler's own report."""

from __future__ import annotations

import functools
import platform
import shutil
import time
from importlib import metadata
from typing import Any

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import WEIGHTS, CompiledKernels, KernelCache
from wavernn_trt.plugins.resources import resource_report
from wavernn_trt.scripts.bench.gpu_state import query_gpu
from wavernn_trt.scripts.bench.machine import describe_machine
from wavernn_trt.scripts.gpu.checks import Checks
from wavernn_trt.scripts.gpu.runners import kernel_cache
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Task

PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "torch",
    "cuda-bindings",
    "pycuda",
    "tensorrt",
    "tensorrt_rtx",
    "filelock",
    "platformdirs",
)
"""Whose versions are told."""
SMI_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_event_reasons.active",
    "mig.mode.current",
)
"""Asked of nvidia-smi."""


def tasks(settings: Settings) -> list[Task]:
    """The machine first, then every kernel file in every precision."""
    compiled = functools.cache(functools.partial(_compile, kernel_cache(settings.folder)))
    found = [
        Task("machine", "GPU", "", _gpu),
        Task("machine", "clocks", "", clocks),
        Task("machine", "host", "", _host),
        Task("machine", "versions", "", _versions),
        Task("machine", "compiler", "", lambda: _compiler(compiled())),
    ]
    for file, precisions in WEIGHTS.items():
        for precision in precisions:
            run = functools.partial(_resources, compiled, file, precision)
            found.append(Task(f"{file} {precision}", "resources", "", run))
    return [*found, Task("machine", "host build", "", Checks(settings).build)]


def _gpu() -> Outcome:
    _, device = driver.current_device()
    _, memory = driver.call("cuMemGetInfo")
    (version,) = driver.call("cuDriverGetVersion")
    (ordinal,) = driver.call("cuCtxGetDevice")
    attribute = driver.constant("CUdevice_attribute", "CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE")
    (cache,) = driver.call("cuDeviceGetAttribute", attribute, ordinal)
    numbers = {
        "name": device.name,
        "sm": device.sm,
        "multiprocessors": device.multiprocessors,
        "shared_per_block": device.shared_per_block,
        "shared_per_multiprocessor": device.shared_per_multiprocessor,
        "memory_bytes": memory,
        "l2_bytes": cache,
        "driver_cuda": f"{version // 1000}.{version % 1000 // 10}",
    }
    text = (
        f"{device.name}, sm_{device.sm}, {device.multiprocessors} multiprocessors, {memory / 2**30:.1f} GiB, "
        f"{device.shared_per_block // 1024} KiB shared a block, driver of CUDA {numbers['driver_cuda']}"
    )
    return Outcome("noted", text, numbers)


def clocks() -> Outcome:
    """Clocks, power and what holds them back, as nvidia-smi tells."""
    if shutil.which("nvidia-smi") is None:
        raise MissingError("nvidia-smi is not on PATH")
    told = query_gpu(SMI_FIELDS) or {}
    return Outcome("noted", ", ".join(f"{name} {value}" for name, value in told.items()), dict(told))


def _host() -> Outcome:
    machine = describe_machine()
    text = f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    return Outcome("noted", text, machine)


def _versions() -> Outcome:
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return Outcome("noted", ", ".join(f"{name} {version or '-'}" for name, version in versions.items()), versions)


def _compile(cache: KernelCache) -> tuple[KernelCache, list[CompiledKernels], float]:
    started = time.perf_counter()
    done = cache.get_all(targets=(driver_state().devices[0].sm,))
    return cache, done, time.perf_counter() - started


def _compiler(compiled: tuple[KernelCache, list[CompiledKernels], float]) -> Outcome:
    cache, done, seconds = compiled
    kind, version, fresh = cache.compiler.kind, cache.compiler.version, sum(one.compiled for one in done)
    text = f"{kind} {version}: {fresh} of {len(done)} kernel files compiled now, in {seconds:.1f} s"
    return Outcome("noted", text, {"kind": kind, "version": version, "compiled": fresh, "seconds": seconds})


def _resources(compiled: Any, file: str, precision: str) -> Outcome:
    _, done, _ = compiled()
    kernels = resource_report(one for one in done if (one.file, one.precision) == (file, precision))
    spilled = sum(one.spill_stores + one.spill_loads for one in kernels)
    registers = ", ".join(f"{one.registers} ({one.kernel.removeprefix(file).strip('_')})" for one in kernels)
    text = f"registers {registers}, spilled bytes {spilled}"
    numbers = {one.kernel: {"registers": one.registers, "shared_bytes": one.shared_bytes} for one in kernels}
    numbers |= {"spilled_bytes": spilled}  # type: ignore[dict-item]
    return Outcome("failed" if spilled else "passed", text, numbers)
