"""What runs in a part's own process. Started by `wavernn_trt.scripts.gpu.supervisor`, not by people.

A kernel that fails leaves the process's CUDA context useless, and native code may abort: a process of its own keeps
that from the other parts, and the supervisor starts another one behind the task. It reads one request (a line of JSON)
from standard input and writes events, a line of JSON each, to what was its standard output; whatever libraries print
goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.device_kernels import primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu.parts import Part, part_named
from wavernn_trt.scripts.gpu.tasks import Gate, MissingError, Outcome, Settings, Task

TIME_IS_UP = "the time is up"


def main() -> int:
    """Serves one request; the exit code is 0 where every task was answered."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    part, settings = part_named(request["part"]), Settings.from_json(request["settings"])
    until = time.monotonic() + request["seconds"]
    gate = Gate(request["lost"], request["failed"])

    def send(**values: Any) -> None:
        events.write(json.dumps(values) + "\n")
        events.flush()

    with context(part, settings):
        for number, task in enumerate(part.tasks(settings)[request["first"] :], request["first"]):
            send(begun=number)
            started = time.monotonic()
            outcome = run(task, until, gate)
            lost = outcome.status == "failed" and not _context_lives(part, settings)
            gate.learn(task, outcome.status, lost=lost)
            numbers = {**outcome.numbers, "lost": task.kernel} if lost else outcome.numbers
            values = {"status": outcome.status, "text": outcome.text, "numbers": numbers}
            send(ended=number, seconds=time.monotonic() - started, **values)
            if lost:
                send(lost=number)
                return 1
    return 0


def outcomes(part: Part, tasks: Sequence[Task], settings: Settings, until: float) -> Iterator[Outcome]:
    """Of all tasks, in this process.

    Args:
        part: whose they are.
        tasks: in their order.
        settings: what is asked for.
        until: of ``time.monotonic()``; tasks after it are skipped.
    """
    gate = Gate(settings.lost)
    with context(part, settings):
        for task in tasks:
            outcome = run(task, until, gate)
            gate.learn(task, outcome.status)
            yield outcome


def context(part: Part, settings: Settings) -> AbstractContextManager[None]:
    """What a part's tasks run in: the first GPU's context, or nothing."""
    return primary_context() if part.on_gpu and not settings.host else contextlib.nullcontext()


def run(task: Task, until: float, gate: Gate | None = None) -> Outcome:
    """A task's outcome, whatever it raises."""
    if time.monotonic() > until:
        return Outcome("skipped", TIME_IS_UP)
    if gate is not None and (refusal := gate.refusal(task)):
        return Outcome("skipped", refusal)
    try:
        return task.run()
    except MissingError as error:
        return Outcome("skipped", str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wavernn_trt"):
            return Outcome("failed", f"{error}; is this a whole copy of the tree, with its symbolic links?")
        return Outcome("skipped", f"{error.name or error} is not installed")
    except Exception as error:  # every failure is a line of the table
        return Outcome("failed", f"{type(error).__name__}: {error}")


def describe(part: Part, settings: Settings) -> list[str]:
    """A part's tasks, a line each."""
    return [", ".join(filter(None, (task.subject, task.line, task.name))) for task in part.tasks(settings)]


def _context_lives(part: Part, settings: Settings) -> bool:
    """Whether the device still answers: an error inside a kernel stays with its process."""
    if part.on_gpu and not settings.host:
        try:
            driver.call("cuCtxSynchronize")
        except KernelError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
