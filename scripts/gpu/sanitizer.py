"""Runs compute-sanitizer over small cases of a kernel, and reads what it reports."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from wavernn_trt.scripts.gpu.findings import Status

TOOLS = ("memcheck", "synccheck", "racecheck", "initcheck")
FOUND_SOMETHING = 86
"""Exit code that the tool is asked for where it finds something."""


def sanitizer_command(sanitizer: Path, tool: str, log: Path, tests: Path, more: Sequence[str]) -> list[str]:
    """Returns the command that runs small cases under a tool.

    Args:
        sanitizer: path of compute-sanitizer.
        tool: one of `TOOLS`.
        log: file for the tool's report.
        tests: ``tests/gpu/test_correctness.py``.
        more: further options of pytest; they choose the kernel.
    """
    options = [f"--tool={tool}", f"--error-exitcode={FOUND_SOMETHING}", f"--log-file={log}"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "-k", "small_for_sanitizers"]
    return [str(sanitizer), *options, *pytest, str(tests), *more]


def judge(tool: str, code: int, log: str, output: str) -> tuple[Status, str]:
    """Returns what the end of a tool means.

    Args:
        tool: its name.
        code: its exit code.
        log: its report.
        output: what the tests printed.
    """
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", log)
    last = summary[-1] if summary else next((line for line in reversed(output.splitlines()) if line.strip()), "")
    if code == 0 and summary:
        return "passed", last
    if code == FOUND_SOMETHING:
        return "failed", last
    # A tool that cannot attach (permissions, an unsupported GPU) says nothing about the kernels.
    return "failed" if code == 1 and summary else "skipped", f"{tool} ended with {code}: {last[:200]}"
