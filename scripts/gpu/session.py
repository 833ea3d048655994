"""Child processes of a run on a GPU: each has a time limit, and its end becomes findings."""

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
"""The tree with the tests: the current folder where it is one, so that an installed package finds them; else the tree
that this file lies in."""
LEAST_SECONDS = 3.0
"""Less time than that is not worth starting a part."""
_RESTARTS = ("-n", "1", "--max-worker-restart", "16", "--maxschedchunk", "1")


@dataclass(frozen=True)
class Part:
    """One child process."""

    name: str
    command: Sequence[str]
    seconds: float = 600.0
    """Limit, beside that of its stage."""
    environment: Mapping[str, str] = field(default_factory=dict)
    good: tuple[int, ...] = (0,)
    """Exit codes of a process that recorded its failures itself."""


class Run:
    """A run: its folders, its clock, and what it has found so far."""

    def __init__(self, out: Path, work: Path, seconds: float, cubins: Path | None, kernels: Sequence[str]) -> None:
        """Creates nothing yet.

        Args:
            out: folder for the results.
            work: folder for logs and compiled kernels, on the same machine.
            seconds: of the whole run.
            cubins: folder of prebuilt cubins, if any.
            kernels: those that are checked and timed.
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
        """The file that all parts append to."""
        return FindingsFile(self.work / "findings.jsonl", part)

    def found(self) -> list[Finding]:
        """All findings so far."""
        return self.findings().read()

    @functools.cached_property
    def _machine(self) -> dict[str, Any]:
        return {**describe_machine(), "versions": describe_versions(), "gpu": read_gpu()}

    def about(self) -> dict[str, Any]:
        """What the results say of the run itself; the GPU's clocks are those at its beginning."""
        return {"date": self.date, "seconds": self.elapsed, "command": sys.argv, "machine": self._machine}

    def execute(self, part: Part, until: float) -> tuple[int | None, str]:
        """Runs a part, and turns its end into findings.

        Args:
            part: which.
            until: second of the run at which it is ended.

        Returns:
            The exit code, ``None`` where it was ended or not begun, and what it printed.
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
            findings.close_open(f"not ended when the part's {limit:.0f} s were over", "skipped")
            findings.add("time limit", "skipped", f"ended after {limit:.0f} s; what it had not reached is not listed")
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
        """A part of pytest; a test that ends its process is reported, and the rest runs on."""
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "ignore"]
        command += [f"-c{ROOT / 'setup.cfg'}", f"--rootdir={ROOT}", f"--basetemp={self.work / 'pytest'}"]
        if importlib.util.find_spec("xdist"):
            command += _RESTARTS
        return Part(name, [*command, *self.test_options(name), *more], good=(0, 1, 5), **fields)

    def test_options(self, name: str) -> list[str]:
        """Options of tests/gpu/conftest.py."""
        options = ["--gpu-findings", str(self.findings().path), "--gpu-part", name]
        options += ["--gpu-host-build", str(self.host_library)]
        return options + (["--gpu-cubins", str(self.cubins)] if self.cubins else [])

    def _environment(self) -> dict[str, str]:
        paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        # Without what a worker of pytest-xdist, should this run in one, has in its environment for itself.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return {
            **own,
            "PYTHONPATH": os.pathsep.join(str(Path(one).resolve()) for one in paths),
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(self.work / "cache"),  # nothing is left outside of the run's folders
        }


def run_limited(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]) -> int | None:
    """Runs a command in a process group of its own, which is killed at the limit.

    Args:
        command: program and arguments.
        seconds: limit.
        log: file for all that it prints.
        environment: of the process.

    Returns:
        Its exit code, negative for a signal; ``None`` where the limit ended it.
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
                os.killpg(process.pid, signal.SIGKILL)  # its children, too, where it has ended itself
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck inside the driver: the run goes on without it
                process.wait(5)


def exit_name(code: int) -> str:
    """Returns an exit code in words: a signal's name where there was one."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
