"""A build's process as seen from outside: started, watched, ended, and its death explained."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from wavernn_trt.engines.build_process import NO_MEMORY, PARSING
from wavernn_trt.engines.cache_folder import is_lack_of_room
from wavernn_trt.engines.plan_names import gpu_and_version
from wavernn_trt.engines.spec import EngineSpec, Role
from wavernn_trt.engines.tensorrt_module import NAMES, build_environment, import_tensorrt
from wavernn_trt.export.model_directory import ModelDirectory

logger = logging.getLogger(__name__)

Progress = Callable[[Role, str, float], None]
"""Called with the plan's role, what is being done, and the share of the build that is done, 0 to 1."""

_LAST_LINES = 8
"""Lines of TensorRT's log, and of what native code printed, that an error message carries at most."""
_START = "import sys; sys.path[:] = filter(None, sys.path); from wavernn_trt.engines.build_process import main; main()"
"""What a build's process runs. ``python -m`` and ``-c`` would look for modules in the current folder first, and a file
there that happens to be called ``onnx.py`` is not ours to run."""


class EngineBuildError(RuntimeError):
    """A plan that could not be built: says what TensorRT said last, and about which node."""


def build_in_process(
    directory: ModelDirectory, spec: EngineSpec, role: Role, folder: Path, say: Progress, memory_limit: int | None
) -> dict[str, Any]:
    """Builds one plan into a folder; see `wavernn_trt.engines.build_process` for what is done and returned.

    Args:
        directory: a verified model directory.
        spec: the engine.
        role: which of its plans.
        folder: for the process's files; inside the cache.
        say: told how far it is.
        memory_limit: bytes that the process may take; ``None`` is no limit.

    Raises:
        EngineBuildError: there is no plan.
        OSError: the disk is full.
        TensorRTMissingError: the module is not installed.
    """
    import_tensorrt(spec.backend)  # a missing module is said here, not by a process that died of it
    request = {
        "directory": str(directory.path.resolve()),
        "spec": spec.to_json(),
        "role": role,
        "folder": str(folder),
        "memory_limit": memory_limit,
        "timing_cache": None if spec.targets else str(folder.parent / "timing" / f"{gpu_and_version(spec)}.cache"),
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
