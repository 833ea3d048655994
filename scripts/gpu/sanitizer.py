"""Whether compute-sanitizer finds races and stray accesses in a small subset of the cases."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from wavernn_trt.plugins.forms import KERNELS
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Status, Task

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FOUND_SOMETHING = 86
"""Exit code that the tool is told to give."""
SECONDS = 40.0
"""That a tool may take."""
_TOOLKIT = Path("/usr/local/cuda/bin/compute-sanitizer")


def tasks(settings: Settings) -> list[Task]:
    """What memcheck says of each kernel that ended its process; then every tool over all of the others."""
    found = []
    for kernel in settings.lost:
        run = functools.partial(_check, TOOLS[0], settings, (kernel,))
        found.append(Task("compute-sanitizer", f"{TOOLS[0]}, {kernel}", "", run))
    others = tuple(
        kernel for kernel in ("gru_cell", *KERNELS) if settings.wants(kernel) and kernel not in settings.lost
    )
    for tool in TOOLS:
        found.append(Task("compute-sanitizer", tool, "", functools.partial(_check, tool, settings, others)))
    return found


def command(sanitizer: str, tool: str, folder: Path, kernels: Sequence[str]) -> list[str]:
    """What is started: the subset in one process, under a tool.

    Args:
        sanitizer: path of compute-sanitizer.
        tool: one of `TOOLS`.
        folder: of the run; compiled kernels are found there.
        kernels: whose cases are run.
    """
    options = [f"--tool={tool}", f"--error-exitcode={FOUND_SOMETHING}", f"--log-file={_log(tool, folder, kernels)}"]
    run = [sys.executable, "-m", "wavernn_trt.scripts.gpu", "--subset", "sanitizer", "--out", str(folder)]
    return [sanitizer, *options, *run, "--kernels", ",".join(kernels)]


def _check(tool: str, settings: Settings, kernels: Sequence[str]) -> Outcome:
    sanitizer = shutil.which("compute-sanitizer") or (str(_TOOLKIT) if _TOOLKIT.exists() else None)
    if sanitizer is None:
        raise MissingError("compute-sanitizer is not on PATH (it comes with the whole CUDA toolkit)")
    try:
        done = subprocess.run(
            command(sanitizer, tool, settings.folder, kernels),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Outcome("skipped", f"no end within {SECONDS:.0f} s")
    return judge(tool, done.returncode, _read(_log(tool, settings.folder, kernels)), done.stdout + done.stderr)


def judge(tool: str, code: int, log: str, output: str) -> Outcome:
    """What a tool's end means.

    Args:
        tool: its name.
        code: its exit code.
        log: what it wrote.
        output: what the subset printed.
    """
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", log)
    last = summary[-1] if summary else next((line for line in reversed(output.splitlines()) if line.strip()), "")
    numbers = {"exit_code": code, "log": log[-4000:]}
    if code == 0 and summary:
        return Outcome("passed", last, numbers)
    if code == FOUND_SOMETHING:
        return Outcome("failed", last, numbers)
    # A tool that cannot attach (permissions, an unsupported GPU) says nothing about the kernels.
    status: Status = "failed" if code == 1 and summary else "skipped"
    return Outcome(status, f"{tool} ended with {code}: {last[:200]}", numbers)


def _log(tool: str, folder: Path, kernels: Sequence[str]) -> Path:
    return folder / (f"{tool}.log" if len(kernels) > 1 else f"{tool}_{kernels[0]}.log")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
