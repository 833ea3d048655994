"""Builds engines of two plans each: takes a plan from the cache, or builds it in a separate process.

This module starts, monitors and ends the process of `wavernn_trt.engines.build_process`, and explains its failures.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import IO, Any

import wavernn_trt
from wavernn_trt.engines.build_process import NO_MEMORY, PARSING, PLAN, BuildRequest, BuildResult
from wavernn_trt.engines.cache import CachedPlan, EngineCache
from wavernn_trt.engines.cache_folder import is_lack_of_room
from wavernn_trt.engines.gpu import building_gpu
from wavernn_trt.engines.plan_names import gpu_and_version, plan_key, plan_stem, plugin_sources
from wavernn_trt.engines.plan_record import PlanRecord, clean_name
from wavernn_trt.engines.spec import ROLES, EngineSpec, Role, check_grids, in_eight_bits
from wavernn_trt.engines.tensorrt_module import NAMES, build_environment, import_tensorrt, tensorrt_version
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, file_sha256
from wavernn_trt.export.typed_json import from_json

logger = logging.getLogger(__name__)

Progress = Callable[[Role, str, float], None]
"""Called with the plan's role, the current stage, and the finished share of the build, 0 to 1."""
_Report = Callable[[str, float], None]
"""The same, for one role."""

_LAST_LINES = 8
"""Maximum lines in an error message, both of TensorRT's log and of native code's output."""
_START = "import sys; sys.path[:] = filter(None, sys.path); from wavernn_trt.engines.build_process import main; main()"
"""Program of the build process. The empty entry is removed from ``sys.path``, because Python would import modules from
the current folder first, where a user may have an ``onnx.py``."""
_MANY_STEPS, _MINUTES, _GIGABYTES = 512, 8, 3.6
"""Unrolled steps of a model with two GRUs, and the time (one core) and memory that their build takes."""
_MANY_STEPS_IN_EIGHT_BITS = 64
"""The default number of unrolled steps."""


class EngineBuildError(RuntimeError):
    """A plan could not be built: the cause, the last lines of TensorRT's log, and the node being parsed."""


@dataclass(frozen=True)
class BuiltEngine:
    """The two plans of an engine."""

    conditioner: CachedPlan
    decoder: CachedPlan
    built: tuple[Role, ...]
    """Plans that this call built; the others were in the cache."""


def build_engine(
    directory: ModelDirectory,
    spec: EngineSpec,
    cache: EngineCache,
    *,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> BuiltEngine:
    """Returns an engine's plans; builds those that are not in the cache.

    Args:
        directory: a verified model directory.
        spec: what to build.
        cache: the plans' store.
        progress: called during a build.
        memory_limit: bytes that the build process may allocate; ``None`` is no limit.

    Raises:
        EngineBuildError: TensorRT made no plan, or its process ended early.
        EngineCacheError: the cache cannot be written.
        EngineSpecError: fp8 products for a target without fp8.
        TensorRTMissingError: the module is not installed.
    """
    check_grids(spec, directory.quantization)
    long = describe_long_build(directory, spec)
    if long and cache.find(plan_stem(directory, spec, "decoder"), plan_key(directory, spec, "decoder")) is None:
        logger.warning("%s", long)
    plans: dict[Role, CachedPlan] = {}
    built: list[Role] = []
    for role in ROLES:
        report = partial(progress or (lambda role, stage, share: None), role)
        plans[role], is_new = _plan(directory, spec, role, cache, report, memory_limit)
        built += [role] if is_new else []
        report("ready", 1.0)
    return BuiltEngine(plans["conditioner"], plans["decoder"], tuple(built))


def _plan(
    directory: ModelDirectory, spec: EngineSpec, role: Role, cache: EngineCache, report: _Report, limit: int | None
) -> tuple[CachedPlan, bool]:
    """Returns a plan and whether it was built now."""
    stem, key = plan_stem(directory, spec, role), plan_key(directory, spec, role)
    if (found := cache.find(stem, key)) is not None:
        return found, False
    with cache.building(stem, key, waiting=lambda text: report(text, 0.0)) as building:
        # Another process may have built the plan while this one waited for the lock.
        if (found := cache.find(stem, key)) is not None:
            return found, False
        result = _build_in_process(directory, spec, role, building.folder, report, limit)
        plan = building.folder / PLAN
        return building.commit(plan, _record(directory, spec, role, key, plan, result)), True


def describe_long_build(directory: ModelDirectory, spec: EngineSpec) -> str | None:
    """Returns a warning for a decoder that takes long to build; ``None`` for others."""
    if spec.form != "cell":
        return None
    if in_eight_bits(directory.quantization):
        if spec.steps <= _MANY_STEPS_IN_EIGHT_BITS:
            return None
        return (
            f"building {spec.steps} unrolled steps with products in eight bits may take long: 64 of a univoc of 896 "
            "units in int8 took 14 s on one core, and builds grow beyond linearly; fewer steps take less"
        )
    if directory.model.layers == 1 or spec.steps <= _MANY_STEPS:
        return None
    many = spec.steps / _MANY_STEPS
    return (
        f"building {spec.steps} unrolled steps of a model with {directory.model.layers} GRUs may take "
        f"{_MINUTES * many**2:.0f} minutes (they grow with the square of the steps) and {_GIGABYTES * many:.1f} GB of "
        "memory; the form sequence takes seconds"
    )


def _record(
    directory: ModelDirectory, spec: EngineSpec, role: Role, key: str, plan: Path, result: BuildResult
) -> PlanRecord:
    decoder = role == "decoder"
    targets = tuple(f"sm{target}" for target in spec.targets)
    return PlanRecord(
        key=key,
        role=role,
        model=clean_name(directory.path.resolve().name),
        model_sha256=file_sha256(directory.file(MANIFEST)),
        backend=spec.backend,
        backend_version=tensorrt_version(spec.backend),
        targets=targets or tuple(f"{device.name} sm{device.sm}" for device in building_gpu()),
        precision=spec.precision if decoder else "fp32",
        form=spec.form if decoder else None,
        batch=spec.batch.as_tuple() if decoder else (1, 1, 1),
        steps=spec.steps if decoder else None,
        frames=None if decoder else spec.frames.as_tuple(),
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        kernels_sha256=plugin_sources(),
        builder=f"wavernn-trt {wavernn_trt.__version__}",
        plan_sha256=file_sha256(plan),
        plan_bytes=plan.stat().st_size,
        **vars(result),
    )


def _build_in_process(
    directory: ModelDirectory, spec: EngineSpec, role: Role, folder: Path, report: _Report, memory_limit: int | None
) -> BuildResult:
    """Builds one plan into a folder of the cache.

    Raises:
        EngineBuildError: the build failed.
        OSError: the disk is full.
        TensorRTMissingError: the module is not installed.
    """
    import_tensorrt(spec.backend)  # reports a missing module here, not as a failure of the process
    request = BuildRequest(
        directory=str(directory.path.resolve()),
        spec=spec,
        role=role,
        folder=str(folder),
        timing_cache=None if spec.targets else str(folder.parent / "timing" / f"{gpu_and_version(spec)}.cache"),
        memory_limit=memory_limit,
    )
    with tempfile.TemporaryFile() as native_output:
        process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=native_output,
            env=build_environment(spec.backend, folder / "lib"),
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the build
        )
        assert process.stdin is not None
        assert process.stdout is not None
        monitor = _Monitor(role, report)
        try:
            process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                monitor.event(json.loads(line))
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait()
        if monitor.result is not None and code == 0:
            return monitor.result
        if monitor.os_error is not None and is_lack_of_room(monitor.os_error, folder.parent):
            raise monitor.os_error  # the cache explains it
        raise EngineBuildError(monitor.explain(code, _tail(native_output), NAMES[spec.backend], memory_limit))


class _Monitor:
    """Collects the events of a build process and explains its failure."""

    def __init__(self, role: Role, report: _Report) -> None:
        self._role, self._report = role, report
        self._stage = "starting"
        self._node: str | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._error: str | None = None
        self.os_error: OSError | None = None
        self.result: BuildResult | None = None

    def event(self, event: dict[str, Any]) -> None:
        """Handles one event."""
        match event.pop("event"):
            case "stage":
                self._stage, self._node = event["name"], None
                self._report(self._stage, 0.0)
            case "progress":
                self._report(event["phase"], event["share"])
            case "node":
                self._node = event["name"]
            case "log":
                self._lines.append(f"{event['severity'].lower()}: {event['text']}")
                logger.debug("TensorRT: %s: %s", event["severity"], event["text"])
            case "error":
                self._error = event["text"]
                if event.get("errno") is not None:
                    self.os_error = OSError(event["errno"], os.strerror(event["errno"]), event["filename"])
            case "result":
                self.result = from_json(BuildResult, event, "result")

    def explain(self, code: int, native: list[str], name: str, memory_limit: int | None) -> str:
        """Returns the error message for a process that made no plan.

        Args:
            code: the process's exit code.
            native: the last lines that native code printed.
            name: TensorRT's or TensorRT-RTX's display name.
            memory_limit: bytes that the process could allocate; ``None`` without a limit.
        """
        lines = [*self._lines, *native]
        what = f"the {self._role}'s plan could not be built, while {self._stage}"
        limit = "" if memory_limit is None else f" beyond the limit of {memory_limit / 2**30:.2g} GiB"
        smaller = "try fewer steps, or the form sequence"
        if self._error == NO_MEMORY or any("bad_alloc" in line for line in lines):
            what += f": out of memory{limit}; {smaller}"
        elif self._error is not None:
            what += f": {self._error}"
        elif code == -signal.SIGKILL:
            what += f": its process was killed, as Linux does when memory runs out; {smaller}"
        elif code < 0:
            what += f": {name} ended its process with {signal.Signals(-code).name}"
            what += f", possibly out of memory{limit}" if limit else ""
        else:
            what += f": its process ended with code {code}"
        if self._node is not None and self._stage == PARSING:
            what += f"; the last node that was parsed is {self._node}"
        return what + ("; last lines of its log:\n  " + "\n  ".join(lines) if lines else "")


def _tail(file: IO[bytes]) -> list[str]:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    return file.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
