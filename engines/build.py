"""Builds engines: two plans each, from the cache or in a process of their own.

The process is started, watched and ended here, and its death explained; see `wavernn_trt.engines.build_process`.
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
"""Called with the plan's role, what is being done, and the share of the build that is done, 0 to 1."""
_Report = Callable[[str, float], None]
"""The same, for one role."""

_LAST_LINES = 8
"""Lines of TensorRT's log, and of what native code printed, that an error message carries at most."""
_START = "import sys; sys.path[:] = filter(None, sys.path); from wavernn_trt.engines.build_process import main; main()"
"""What a build's process runs. ``python -m`` and ``-c`` would look for modules in the current folder first, and a file
there that happens to be called ``onnx.py`` is not ours to run."""
_MANY_STEPS, _MINUTES, _GIGABYTES = 512, 8, 3.6
"""Unrolled steps of a model with two GRUs, what building them takes on one core, and the memory that it takes."""
_MANY_STEPS_IN_EIGHT_BITS = 64
"""As many as are unrolled by default."""


class EngineBuildError(RuntimeError):
    """A plan that could not be built: the cause, the last lines of TensorRT's log, and the node it was at."""


@dataclass(frozen=True)
class BuiltEngine:
    """The two plans of an engine."""

    conditioner: CachedPlan
    decoder: CachedPlan
    built: tuple[Role, ...]
    """Which of them were built now; the others were in the cache."""


def build_engine(
    directory: ModelDirectory,
    spec: EngineSpec,
    cache: EngineCache,
    *,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> BuiltEngine:
    """Gives an engine's plans, building what the cache does not have.

    Args:
        directory: a verified model directory.
        spec: what to build.
        cache: where plans are kept.
        progress: called as a build goes on.
        memory_limit: bytes that a build's process may take; ``None`` is no limit.

    Raises:
        EngineBuildError: TensorRT made no plan, or its process died.
        EngineCacheError: the cache cannot be written.
        EngineSpecError: products of fp8 for a target that has none.
        TensorRTMissingError: the module is not installed.
    """
    check_grids(spec, directory.quantization)
    long = describe_long_build(directory, spec)
    if long and cache.find(plan_stem(directory, spec, "decoder"), plan_key(directory, spec, "decoder")) is None:
        logger.warning("%s", long)
    plans: dict[Role, CachedPlan] = {}
    built: list[Role] = []
    for role in ROLES:
        report = partial(progress or _no_progress, role)
        plans[role], is_new = _plan(directory, spec, role, cache, report, memory_limit)
        built += [role] if is_new else []
        report("ready", 1.0)
    return BuiltEngine(plans["conditioner"], plans["decoder"], tuple(built))


def _plan(
    directory: ModelDirectory, spec: EngineSpec, role: Role, cache: EngineCache, report: _Report, limit: int | None
) -> tuple[CachedPlan, bool]:
    """A plan from the cache, or a new one, and whether it is new."""
    stem, key = plan_stem(directory, spec, role), plan_key(directory, spec, role)
    if (found := cache.find(stem, key)) is not None:
        return found, False
    with cache.building(stem, key, waiting=lambda text: report(text, 0.0)) as building:
        # Another process may have built it while this one waited for the lock.
        if (found := cache.find(stem, key)) is not None:
            return found, False
        result = _build_in_process(directory, spec, role, building.folder, report, limit)
        plan = building.folder / PLAN
        return building.commit(plan, _record(directory, spec, role, key, plan, result)), True


def describe_long_build(directory: ModelDirectory, spec: EngineSpec) -> str | None:
    """A warning for a decoder that takes long to build; ``None`` for others."""
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


def _no_progress(role: Role, stage: str, share: float) -> None:
    pass


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
        EngineBuildError: there is no plan.
        OSError: the disk is full.
        TensorRTMissingError: the module is not installed.
    """
    import_tensorrt(spec.backend)  # a missing module is an error here, not of a process that died of it
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
            start_new_session=True,  # Ctrl-C comes to this process, which ends the other
        )
        assert process.stdin is not None
        assert process.stdout is not None
        watched = _Watched(role, report)
        try:
            process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                watched.event(json.loads(line))
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait()
        if watched.result is not None and code == 0:
            return watched.result
        if watched.os_error is not None and is_lack_of_room(watched.os_error, folder.parent):
            raise watched.os_error  # which the cache explains
        raise EngineBuildError(watched.explain(code, _tail(native_output), NAMES[spec.backend], memory_limit))


class _Watched:
    """The events of a build's process."""

    def __init__(self, role: Role, report: _Report) -> None:
        self._role, self._report = role, report
        self._stage = "starting"
        self._node: str | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._error: str | None = None
        self.os_error: OSError | None = None
        self.result: BuildResult | None = None

    def event(self, event: dict[str, Any]) -> None:
        """Takes one event."""
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
        """Why there is no plan, for people.

        Args:
            code: the process's exit code.
            native: the last lines that native code printed.
            name: TensorRT's, as people call it.
            memory_limit: bytes that the process was allowed, where that was limited.
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
            what += f", perhaps for want of memory{limit}" if limit else ""
        else:
            what += f": its process ended with code {code}"
        if self._node is not None and self._stage == PARSING:
            what += f"; the last node that it looked at was {self._node}"
        return what + ("; its last words:\n  " + "\n  ".join(lines) if lines else "")


def _tail(file: IO[bytes]) -> list[str]:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    return file.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
