"""What a part of a run consists of, and what each of its tasks finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped", "noted"]
"""``noted``: an answer that is neither right nor wrong."""
Subset = Literal["all", "sanitizer"]
CORRECTNESS = "correctness"
"""The part whose findings tell what is worth timing."""


class MissingError(Exception):
    """A task that cannot run here: says what it needs."""


@dataclass(frozen=True)
class Outcome:
    """What a task found."""

    status: Status
    text: str = ""
    """In words, for the table."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values."""


@dataclass(frozen=True)
class Task:
    """One thing to find out."""

    subject: str
    """What it is about, as in ``sequence fp16``."""
    line: str
    """The table's line, beside the subject, that counts it."""
    name: str
    """What tells it from the line's others."""
    run: Callable[[], Outcome]
    """Finds it out; raises `MissingError`, or an ImportError of its own, where something it needs is not there."""
    kernel: str = ""
    """What it launches, if that is one kernel: whichever took its process along is not launched again."""
    large: bool = False
    """Whether it takes long enough to be left out where a case of the same subject was wrong before."""


@dataclass(frozen=True)
class Finding:
    """A task's outcome, with what it was."""

    part: str
    subject: str
    line: str
    name: str
    status: Status
    text: str
    numbers: dict[str, Any]
    seconds: float
    """That it took."""

    @classmethod
    def of(cls, part: str, task: Task, outcome: Outcome, seconds: float = 0.0) -> Finding:
        """Puts both together."""
        return cls(part, task.subject, task.line, task.name, outcome.status, outcome.text, outcome.numbers, seconds)


@dataclass(frozen=True)
class Settings:
    """What a part is asked for."""

    folder: Path
    """Where everything is written."""
    host: bool = False
    """Whether the kernels' host build is checked in the GPU's place."""
    subset: Subset = "all"
    """``sanitizer``: few and small cases."""
    proved: tuple[str, ...] = ()
    """Subjects of which all cases were right so far; only these are timed."""
    lost: tuple[str, ...] = ()
    """Kernels that took their process along so far."""
    kernels: tuple[str, ...] = ()
    """The only ones that are asked about; all of them where it is empty."""

    def wants(self, kernel: str) -> bool:
        """Whether a kernel is asked about."""
        return not self.kernels or kernel in self.kernels

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        """From what `to_json` gave."""
        names = {name: tuple(values[name]) for name in ("proved", "lost", "kernels")}
        return cls(**{**values, **names, "folder": Path(values["folder"])})


def proved(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Subjects of which at least one case was right beside a reference and nothing failed."""
    passed = dict.fromkeys(
        found.subject for found in findings if found.status == "passed" and found.part == CORRECTNESS
    )
    failed = {found.subject for found in findings if found.status == "failed" and found.part == CORRECTNESS}
    return tuple(subject for subject in passed if subject not in failed)


def lost(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Kernels that took their process along."""
    return tuple(dict.fromkeys(found.numbers["lost"] for found in findings if found.numbers.get("lost")))


class Gate:
    """What a part need not try any more, by what it has found so far."""

    def __init__(self, lost: Sequence[str] = (), failed: Sequence[str] = ()) -> None:
        """Takes what is known already.

        Args:
            lost: kernels that took their process along.
            failed: subjects of which a case was wrong.
        """
        self.lost, self.failed = set(lost), set(failed)

    def refusal(self, task: Task) -> str | None:
        """Why a task is not to be run, if so."""
        if task.kernel and task.kernel in self.lost:
            return "failed before: the kernel took its process along"
        if task.large and task.subject in self.failed:
            return "failed before, in a smaller case"
        return None

    def learn(self, task: Task, status: Status, *, lost: bool = False) -> None:
        """Takes how a task ended."""
        if status == "failed":
            self.failed.add(task.subject)
        if lost and task.kernel:
            self.lost.add(task.kernel)
