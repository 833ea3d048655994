"""Whether compute-sanitizer finds races and stray accesses in a small subset of the cases."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Status, Task

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FOUND_SOMETHING = 86
"""Exit code that the tool is told to give."""
SECONDS = 60.0
"""That a tool may take."""
_TOOLKIT = Path("/usr/local/cuda/bin/compute-sanitizer")


def tasks(settings: Settings) -> list[Task]:
    """One for each tool."""
    return [Task("compute-sanitizer", tool, "", functools.partial(_check, tool, settings)) for tool in TOOLS]


def command(sanitizer: str, tool: str, folder: Path) -> list[str]:
    """What is started: the subset in one process, under a tool.

    Args:
        sanitizer: path of compute-sanitizer.
        tool: one of `TOOLS`.
        folder: of the run; compiled kernels are found there.
    """
    options = [f"--tool={tool}", f"--error-exitcode={FOUND_SOMETHING}", f"--log-file={folder / tool}.log"]
    run = [sys.executable, "-m", "wavernn_trt.scripts.gpu", "--subset", "sanitizer", "--out", str(folder)]
    return [sanitizer, *options, *run]


def _check(tool: str, settings: Settings) -> Outcome:
    sanitizer = shutil.which("compute-sanitizer") or (str(_TOOLKIT) if _TOOLKIT.exists() else None)
    if sanitizer is None:
        raise MissingError("compute-sanitizer is not on PATH (it comes with the whole CUDA toolkit)")
    try:
        done = subprocess.run(
            command(sanitizer, tool, settings.folder), capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return Outcome("skipped", f"no end within {SECONDS:.0f} s")
    return judge(tool, done.returncode, _read(settings.folder / f"{tool}.log"), done.stdout + done.stderr)


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


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
