"""A run on a GPU: its child processes, each with a time limit, and the findings that their ends become."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wavernn_trt.scripts.bench.machine import describe_machine, describe_versions, read_gpu
from wavernn_trt.scripts.gpu.findings import CRASHED, Finding, FindingsFile
from wavernn_trt.scripts.gpu.results import write_results


def _root() -> Path:
    here = Path.cwd()
    whole = (here / "setup.cfg").is_file() and (here / "tests" / "gpu").is_dir()
    return here if whole else Path(__file__).resolve().parents[2]


ROOT = _root()
"""The tree with the tests: the current folder if it is a clone (for an installed package), else this file's tree."""
LEAST_SECONDS = 3.0
"""A part is not begun with less time than this."""
_RESTARTS = ("-n", "1", "--max-worker-restart", "16", "--maxschedchunk", "1")


@dataclass(frozen=True)
class Part:
    """A child process."""

    name: str
    command: Sequence[str]
    seconds: float = 600.0
    """Time limit; its stage's limit holds too."""
    environment: Mapping[str, str] = field(default_factory=dict)
    good: tuple[int, ...] = (0,)
    """Exit codes that add no finding: the process has recorded its failures itself."""


class Run:
    """A run: its folders, its clock and its findings."""

    def __init__(self, out: Path, work: Path, seconds: float, cubins: Path | None, kernels: Sequence[str]) -> None:
        """Starts the clock.

        Args:
            out: folder for the results.
            work: temporary folder for logs and compiled kernels.
            seconds: time limit of the whole run.
            cubins: folder of prebuilt cubins, if any.
            kernels: names of the kernels to check and time.
        """
        self.out, self.work, self.seconds, self.kernels = out, work, seconds, tuple(kernels)
        self.cubins = cubins.resolve() if cubins else None
        self.started = time.monotonic()
        self.date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.host_library = work / "host" / "kernels.so"

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started

    def findings(self, part: str = "") -> FindingsFile:
        """The file of findings, to which all parts append."""
        return FindingsFile(self.work / "findings.jsonl", part)

    def found(self) -> list[Finding]:
        """All findings so far."""
        return self.findings().read()

    @functools.cached_property
    def _machine(self) -> dict[str, Any]:
        return {**describe_machine(), "versions": describe_versions(), "gpu": read_gpu()}

    def about(self) -> dict[str, Any]:
        """Date, duration, command and machine of the run; the GPU's clocks are those at its beginning."""
        return {"date": self.date, "seconds": self.elapsed, "command": sys.argv, "machine": self._machine}

    def execute(self, part: Part, until: float) -> tuple[int | None, str]:
        """Runs a part and turns its end into findings.

        Args:
            part: the child process.
            until: second of the run at which it is killed.

        Returns:
            The exit code (``None`` if it was killed or not begun) and its output.
        """
        findings, limit = self.findings(part.name), min(part.seconds, until - self.elapsed)
        if limit < LEAST_SECONDS:
            findings.add("not begun", "skipped", "the time is up")
            return None, ""
        log = self.work / f"{part.name.replace(' ', '_').replace('/', '_')}.log"
        print(f"{self.elapsed:6.0f} s  {part.name}", flush=True)
        code = run_limited(part.command, limit, log, {**self._environment(), **part.environment})
        output = log.read_text(errors="replace")
        if code is None:
            findings.close_open(f"not finished within the part's {limit:.0f} s", "skipped")
            findings.add("time limit", "skipped", f"killed after {limit:.0f} s; what it did not reach is not listed")
        elif code not in part.good:
            words = " / ".join([line.strip() for line in output.splitlines() if line.strip()][-3:])[-300:]
            text = f"{CRASHED} with {exit_name(code)}: {words or 'it printed nothing'}"
            if any(one.text == CRASHED and one.part == part.name for one in self.found()):
                findings.close_open(text)
            else:
                findings.add(f"exit {code}", "failed", text)
        return code, output

    def write(self) -> None:
        """Rewrites the results."""
        write_results(self.out, self.work, self.about(), self.found())

    def speed(self, what: str, name: str, *more: str, **fields: Any) -> Part:
        """A part of `wavernn_trt.scripts.gpu.speed`."""
        command = [sys.executable, "-m", "wavernn_trt.scripts.gpu.speed", what]
        command += ["--findings", str(self.findings().path), "--part", name, "--work", str(self.work), *more]
        return Part(name, command + (["--cubins", str(self.cubins)] if self.cubins else []), **fields)

    def tests(self, name: str, *more: str, **fields: Any) -> Part:
        """A part of pytest, with options of tests/gpu/conftest.py. A test that crashes is reported; the rest runs."""
        command = [*self.pytest(), "-W", "ignore", *(_RESTARTS if importlib.util.find_spec("xdist") else ())]
        command += ["--gpu-findings", str(self.findings().path), "--gpu-part", name]
        command += ["--gpu-host-build", str(self.host_library), *self.cubins_option(), *more]
        return Part(name, command, good=(0, 1, 5), **fields)

    def pytest(self) -> list[str]:
        """Command of the tests marked ``gpu``, with this tree's settings."""
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        return [*command, f"-c{ROOT / 'setup.cfg'}", f"--rootdir={ROOT}", f"--basetemp={self.work / 'pytest'}"]

    def cubins_option(self) -> list[str]:
        """Option of tests/gpu/conftest.py for prebuilt cubins."""
        return ["--gpu-cubins", str(self.cubins)] if self.cubins else []

    def _environment(self) -> dict[str, str]:
        paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        # A child of a pytest-xdist worker must not inherit the worker's own variables.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return {
            **own,
            "PYTHONPATH": os.pathsep.join(str(Path(one).resolve()) for one in paths),
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(self.work / "cache"),  # so that nothing is written outside the run's folders
        }


def run_limited(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]) -> int | None:
    """Runs a command in its own process group, which is killed at the limit; ``log`` receives the output.

    Returns:
        The exit code, negative for a signal; ``None`` if it was killed at the limit.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children may outlive it
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver: the run goes on
                process.wait(5)


def exit_name(code: int) -> str:
    """Returns the name of the signal, or the exit code."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
