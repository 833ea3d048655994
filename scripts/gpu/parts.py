"""The parts of a run, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from wavernn_trt.scripts.gpu.tasks import CORRECTNESS, Settings, Task


@dataclass(frozen=True)
class Part:
    """One module of tasks, which runs in a process of its own."""

    name: str
    module: str
    """Its module has ``tasks(settings) -> list[Task]``; making them needs no GPU."""
    share: float
    """Of the whole run's time that it may take at most; the last part has all that is left."""
    task_seconds: float
    """After which a task is taken to hang."""
    on_gpu: bool
    """Whether a context is current while its tasks run."""
    environment: Callable[[Path], dict[str, str]] | None = None
    """What its process needs in its environment, with a folder for links."""

    def tasks(self, settings: Settings) -> list[Task]:
        """Its tasks, always in the same order."""
        found: list[Task] = import_module(f"wavernn_trt.scripts.gpu.{self.module}").tasks(settings)
        return found


def _rtx(folder: Path) -> dict[str, str]:
    from wavernn_trt.engines.tensorrt_module import build_environment

    return build_environment("tensorrt_rtx", folder)


PARTS = (
    Part("environment", "environment", 0.2, 150, on_gpu=True),
    Part(CORRECTNESS, "correctness", 0.25, 60, on_gpu=True),
    Part("sanitizer", "sanitizer", 0.12, 50, on_gpu=False),
    Part("speed", "speed", 0.38, 60, on_gpu=True),
    Part("cuda", "backend", 0.15, 90, on_gpu=False),
    Part("tensorrt_rtx", "plans_rtx", 0.15, 90, on_gpu=True, environment=_rtx),
    Part("tensorrt", "plans_regular", 1.0, 90, on_gpu=True),
)
"""By name, as ``--only`` takes them."""


def part_named(name: str) -> Part:
    """One of `PARTS`."""
    return next(part for part in PARTS if part.name == name)
