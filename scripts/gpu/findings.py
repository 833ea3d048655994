"""Findings of a run on a GPU, in a file of JSON lines that child processes append to and that outlives them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped", "noted"]
"""``noted``: a result that is neither right nor wrong, such as a speed."""
CRASHED = "ended its process"
"""In the text of a finding whose process ended while it ran."""


@dataclass(frozen=True)
class Finding:
    """One result."""

    part: str
    """Part of the run, of `wavernn_trt.scripts.gpu.run`."""
    name: str
    """Identifies it within the part; a test's id."""
    status: Status
    text: str = ""
    """In words, for the table."""
    kernel: str = ""
    """Kernel that it launched, if exactly one."""
    precision: str = ""
    """Precision of that kernel's weights."""
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values, every repeat of a timing among them."""


class FindingsFile:
    """A file of findings. Several processes append to it; each line is written at once."""

    def __init__(self, path: Path, part: str) -> None:
        """Creates nothing yet.

        Args:
            path: of the file.
            part: part of the run that the findings added here belong to.
        """
        self.path, self.part = path, part

    def begin(self, name: str, kernel: str = "", precision: str = "") -> None:
        """Records that something is about to run: if its process ends, `read` reports it."""
        self._append({"begun": True, "part": self.part, "name": name, "kernel": kernel, "precision": precision})

    def add(self, name: str, status: Status, text: str = "", **more: Any) -> None:
        """Records a result; ``more`` are further fields of `Finding`."""
        self._append(dataclasses.asdict(Finding(self.part, name, status, text, **more)))

    def read(self) -> list[Finding]:
        """Returns all findings of all parts; what began and did not end counts as failed.

        A result that names no kernel takes that of its beginning.
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
            except ValueError:  # cut off where a process was killed
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
        """Gives a result to everything that began and did not end."""
        for one in self.read():
            if one.text == CRASHED and one.part == self.part:
                self.add(one.name, status, text, kernel=one.kernel, precision=one.precision)

    def _append(self, values: dict[str, Any]) -> None:
        # One write to a file opened for appending: lines of several processes do not mix.
        line = json.dumps(values, default=str) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def crashed_kernels(findings: Sequence[Finding]) -> set[str]:
    """Kernels whose process ended while they ran. They are not launched again."""
    return {one.kernel for one in findings if one.kernel and one.status == "failed" and CRASHED in one.text}


def failed_kernels(findings: Sequence[Finding]) -> set[tuple[str, str]]:
    """Kernels and precisions with a failure. They are not tried in large cases, and not timed."""
    return {(one.kernel, one.precision) for one in findings if one.kernel and one.status == "failed"}


def proved_kernels(findings: Sequence[Finding], part: str) -> set[tuple[str, str]]:
    """Kernels and precisions with a passed case in a part, and no failure anywhere.

    Args:
        findings: of all parts.
        part: beginning of the part's name.
    """
    passed = {(one.kernel, one.precision) for one in findings if one.status == "passed" and one.part.startswith(part)}
    return passed - failed_kernels(findings)
