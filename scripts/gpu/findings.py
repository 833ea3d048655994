"""Findings of a run on a GPU: a file of JSON lines to which child processes append."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wavernn_trt.plugins import driver

Status = Literal["passed", "failed", "skipped", "noted"]
"""``noted``: a result that is neither right nor wrong, such as a speed."""
CRASHED = "ended its process"
"""In the text of a finding whose process ended while it ran."""
TASK_SECONDS = 30.0
"""Time limit of a `task`."""


@dataclass(frozen=True)
class Finding:
    """One result."""

    part: str
    """Part of the run."""
    name: str
    """Unique within the part; of a test, its id."""
    status: Status
    text: str = ""
    """Explanation for the table."""
    kernel: str = ""
    """The kernel that was launched, if exactly one."""
    precision: str = ""
    """Precision of that kernel's weights."""
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values; of a timing, every repeat."""


class FindingsFile:
    """A file of findings. Several processes append to it; each line is written at once."""

    def __init__(self, path: Path, part: str) -> None:
        """Does not create the file; ``part`` is the part of the findings added here."""
        self.path, self.part = path, part

    def begin(self, name: str, kernel: str = "", precision: str = "") -> None:
        """Records the beginning of a test or task; if its process ends before a result, `read` reports a failure."""
        self._append({"begun": True, "part": self.part, "name": name, "kernel": kernel, "precision": precision})

    def add(self, name: str, status: Status, text: str = "", **more: Any) -> None:
        """Records a result; ``more`` are further fields of `Finding`."""
        self._append(dataclasses.asdict(Finding(self.part, name, status, text, **more)))

    def read(self) -> list[Finding]:
        """Returns the findings of all parts; tests and tasks without a result are failures.

        A result without a kernel takes that of its beginning.
        """
        begun: dict[tuple[str, str], dict[str, Any]] = {}
        subjects: dict[tuple[str, str], dict[str, str]] = {}
        found: list[Finding] = []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:  # cut off: the process was killed
                continue
            key = values["part"], values["name"]
            if values.pop("begun", False):
                begun[key] = values
                subjects[key] = {name: values[name] for name in ("kernel", "precision")}
                continue
            begun.pop(key, None)
            if not values["kernel"]:
                values |= subjects.get(key, {})
            found.append(Finding(**values))
        return found + [Finding(**values, status="failed", text=CRASHED) for values in begun.values()]

    def close_open(self, text: str, status: Status = "failed") -> None:
        """Adds a result to every test and task of this part that has none."""
        for one in self.read():
            if one.text == CRASHED and one.part == self.part:
                self.add(one.name, status, text, kernel=one.kernel, precision=one.precision)

    def _append(self, values: dict[str, Any]) -> None:
        # A single write to a file opened for appending: lines of several processes do not mix.
        line = json.dumps(values, default=str) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


@contextlib.contextmanager
def task(findings: FindingsFile, name: str, kernel: str = "", precision: str = "") -> Iterator[None]:
    """Runs one measurement: an exception becomes a finding; a hang or a lost CUDA context ends the process."""
    findings.begin(name, kernel, precision)
    faulthandler.dump_traceback_later(TASK_SECONDS, exit=True)
    try:
        yield
    except Exception as error:  # every failure is a line of the table
        findings.add(name, "failed", f"{type(error).__name__}: {error}", kernel=kernel, precision=precision)
        if driver.is_lost():
            sys.exit(f"the CUDA context is lost: {error}")
    finally:
        faulthandler.cancel_dump_traceback_later()


def crashed_kernels(findings: Sequence[Finding]) -> set[str]:
    """Kernels whose process ended while they ran; they are not launched again."""
    return {one.kernel for one in findings if one.kernel and one.status == "failed" and CRASHED in one.text}


def failed_kernels(findings: Sequence[Finding]) -> set[tuple[str, str]]:
    """Kernels and precisions with a failure; they are not tested in large cases and not timed."""
    return {(one.kernel, one.precision) for one in findings if one.kernel and one.status == "failed"}


def proved_kernels(findings: Sequence[Finding], part: str) -> set[tuple[str, str]]:
    """Kernels and precisions without a failure and with a passed case in a part whose name begins with ``part``."""
    passed = {(one.kernel, one.precision) for one in findings if one.status == "passed" and one.part.startswith(part)}
    return passed - failed_kernels(findings)
