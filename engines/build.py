"""Builds engines: two plans each, from the cache or in a process of their own."""

from __future__ import annotations

import hashlib
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
from functools import cache
from pathlib import Path
from typing import IO, Any

import wavernn_trt
from wavernn_trt.engines.build_process import NO_MEMORY, PARSING, PLAN
from wavernn_trt.engines.cache import CachedPlan, EngineCache
from wavernn_trt.engines.cache_errors import is_lack_of_room
from wavernn_trt.engines.gpu import GpuDevice, driver_state
from wavernn_trt.engines.manifest import Binding, PlanManifest, PluginUse, clean_name
from wavernn_trt.engines.spec import ROLES, EngineSpec, Role
from wavernn_trt.engines.tensorrt_module import NAMES, build_environment, import_tensorrt, tensorrt_version
from wavernn_trt.engines.typed_json import from_json
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, file_sha256

logger = logging.getLogger(__name__)

Progress = Callable[[Role, str, float], None]
"""Called with the plan's role, what is being done, and the share of the build that is done, 0 to 1."""

_LAST_LINES = 8
"""Lines of TensorRT's log, and of what native code printed, that an error message carries at most."""
_MANY_STEPS = 128
"""Of an unrolled decoder with two GRUs. What lies between two plugins is compiled as a whole, the more often and the
longer the more of them there are; one GRU's steps grow with the square."""
_START = "import sys; sys.path[:] = filter(None, sys.path); from wavernn_trt.engines.build_process import main; main()"
"""What a build's process runs. ``python -m`` and ``-c`` would look for modules in the current folder first, and a file
there that happens to be called ``onnx.py`` is not ours to run."""
_GRAPH_CODE = (
    "engines/build_process.py",
    "engines/graphs.py",
    "export/config.py",
    "export/graph_edit.py",
    "export/graph_files.py",
    "export/model_directory.py",
    "export/networks.py",
    "export/operators.py",
    "export/rewrite",
)
"""What makes a plan's network from a model directory; another version of it may make another plan."""
_SHORT_BACKENDS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


class EngineBuildError(RuntimeError):
    """A plan that could not be built: says what TensorRT said last, and about which node."""


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
        progress: told how far a build is.
        memory_limit: bytes that a build's process may take; ``None`` is no limit.

    Raises:
        EngineBuildError: TensorRT made no plan, or its process died.
        EngineCacheError: the cache cannot be written.
        TensorRTMissingError: the module is not installed.
    """
    say = progress or (lambda role, stage, share: None)
    endless = spec.form == "cell" and directory.model.layers > 1 and spec.steps > _MANY_STEPS
    if endless and cache.find(plan_stem(directory, spec, "decoder"), plan_key(directory, spec, "decoder")) is None:
        logger.warning(
            "unrolled steps of a model with %d GRUs: a build's time grows with their cube (32 take 8 s, 64 take 45 s),"
            " so %d may take days; build the form sequence, or at most %d steps",
            directory.model.layers,
            spec.steps,
            _MANY_STEPS,
        )
    plans: dict[Role, CachedPlan] = {}
    built: list[Role] = []
    for role in ROLES:
        stem, key = plan_stem(directory, spec, role), plan_key(directory, spec, role)
        found = cache.find(stem, key)
        if found is None:
            with cache.building(stem, key) as building:
                found = cache.find(stem, key)  # somebody may have built it while this waited
                if found is None:
                    result = _run(directory, spec, role, building.folder, say, memory_limit)
                    manifest = _manifest(directory, spec, role, key, building.folder / PLAN, result)
                    found = building.commit(building.folder / PLAN, manifest)
                    built.append(role)
        plans[role] = found
        say(role, "ready", 1.0)
    return BuiltEngine(plans["conditioner"], plans["decoder"], tuple(built))


def plan_stem(directory: ModelDirectory, spec: EngineSpec, role: Role) -> str:
    """The readable part of a plan's name, as in ``voice-univoc896_decoder_cell_fp16_b8_s1024_sm86+89_rtx1.7``."""
    model = directory.model
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in directory.path.resolve().name)
    parts = [f"{name[:40]}-{model.family}{model.hidden_size}", role]
    if role == "decoder":
        batch = str(spec.batch).replace(":", "-")
        parts += [spec.form, spec.precision, f"b{batch}", f"s{spec.steps}"]
    else:
        parts += [f"f{str(spec.frames).replace(':', '-')}"]
    return "_".join([*parts, _gpu_and_version(spec)])


def _gpu_and_version(spec: EngineSpec) -> str:
    targets = spec.targets or [device.sm for device in _building_gpu()]
    version = ".".join(tensorrt_version(spec.backend).split(".")[:2])
    return f"sm{'+'.join(map(str, targets))}_{_SHORT_BACKENDS[spec.backend]}{version}"


def _building_gpu() -> tuple[GpuDevice, ...]:
    """The GPU that regular TensorRT builds on, and for: the first, however many there are."""
    return driver_state().devices[:1]


def plan_key(directory: ModelDirectory, spec: EngineSpec, role: Role) -> str:
    """What tells plans apart: model, settings, module and version, GPU, and the code that makes graphs and kernels.

    The graph follows from the model's files and that code, so it need not be made to know that it is the same.
    """
    ingredients = {
        "model": file_sha256(directory.file(MANIFEST)),
        "role": role,
        "spec": spec.of_role(role),
        "version": tensorrt_version(spec.backend),
        "gpu": [] if spec.targets else [device.name for device in _building_gpu()],
        "graph_code": _sources(*_GRAPH_CODE),
        "plugin_code": plugin_sources() if role == "decoder" else "",
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def plugin_sources() -> str:
    """The SHA-256 of the plugins' and kernels' sources; a plan made with others is another plan."""
    return _sources("plugins", "export/operators.py")


@cache
def _sources(*names: str) -> str:
    import wavernn_trt.engines
    import wavernn_trt.export
    import wavernn_trt.plugins

    homes = {
        package.__name__.rpartition(".")[2]: Path(str(package.__file__)).parent
        for package in (wavernn_trt.engines, wavernn_trt.export, wavernn_trt.plugins)
    }
    digest = hashlib.sha256()
    for name in names:
        folder, _, rest = name.partition("/")
        place = homes[folder] / rest
        files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".h", ".cu"))
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _manifest(
    directory: ModelDirectory, spec: EngineSpec, role: Role, key: str, plan: Path, result: dict[str, Any]
) -> PlanManifest:
    decoder = role == "decoder"
    targets = tuple(f"sm{target}" for target in spec.targets)
    return PlanManifest(
        key=key,
        role=role,
        model=clean_name(directory.path.resolve().name),
        model_sha256=file_sha256(directory.file(MANIFEST)),
        backend=spec.backend,
        backend_version=tensorrt_version(spec.backend),
        targets=targets or tuple(f"{device.name} sm{device.sm}" for device in _building_gpu()),
        precision=spec.precision if decoder else "fp32",
        form=spec.form if decoder else None,
        batch=spec.batch.as_tuple() if decoder else (1, 1, 1),
        steps=spec.steps if decoder else None,
        window=result["window"],
        frames=None if decoder else spec.frames.as_tuple(),
        bindings=tuple(from_json(Binding, one, "bindings") for one in result["bindings"]),
        plugins=tuple(PluginUse(**one) for one in result["plugins"]),
        layers=result["layers"],
        precisions=result["precisions"],
        build_seconds=result["build_seconds"],
        peak_bytes=result["peak_bytes"],
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        graph_sha256=result["graph_sha256"],
        kernels_sha256=plugin_sources(),
        builder=f"wavernn-trt {wavernn_trt.__version__}",
        plan_sha256=file_sha256(plan),
        plan_bytes=plan.stat().st_size,
    )


def _run(
    directory: ModelDirectory, spec: EngineSpec, role: Role, folder: Path, say: Progress, memory_limit: int | None
) -> dict[str, Any]:
    """Builds one plan in a process of its own; see `wavernn_trt.engines.build_process`."""
    import_tensorrt(spec.backend)  # a missing module is said here, not by a process that died of it
    request = {
        "directory": str(directory.path.resolve()),
        "spec": spec.to_json(),
        "role": role,
        "folder": str(folder),
        "memory_limit": memory_limit,
        "timing_cache": None if spec.targets else str(folder.parent / "timing" / f"{_gpu_and_version(spec)}.cache"),
    }
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
        watched = _Watched(role, say)
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
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
            raise watched.os_error  # the cache says what to do
        raise EngineBuildError(watched.explain(code, _tail(native_output), NAMES[spec.backend], memory_limit))


class _Watched:
    """What a build's process has said."""

    def __init__(self, role: Role, say: Progress) -> None:
        self._role, self._say = role, say
        self._stage = "starting"
        self._node: str | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._error: str | None = None
        self.os_error: OSError | None = None
        self.result: dict[str, Any] | None = None

    def event(self, event: dict[str, Any]) -> None:
        """Takes one event."""
        match event.pop("event"):
            case "stage":
                self._stage, self._node = event["name"], None
                self._say(self._role, self._stage, 0.0)
            case "progress":
                self._say(self._role, event["phase"], event["share"])
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
                self.result = event

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
