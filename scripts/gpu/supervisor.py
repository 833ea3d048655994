"""Runs a part in a process of its own, and another one behind each task that takes the process with it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from wavernn_trt.scripts.gpu.parts import Part
from wavernn_trt.scripts.gpu.tasks import Finding, Outcome, Settings, Task, lost

Say = Callable[[str], None]
WORKER = (sys.executable, "-m", "wavernn_trt.scripts.gpu.worker")
MOST_STARTS = 16
"""Of a part's process; a part that loses more is given up. Each kernel takes at most one along."""
STARTING_SECONDS = 60.0
"""That a process may take before its first task: imports, and a context."""
HOST_PATIENCE = 5
"""How many times as long a task of the host build may take; it hangs less, and others use the machine, too."""
GRACE_SECONDS = 15.0
"""That a task may take longer than its part: a kernel that waits in vain ends itself within about ten."""


def run_part(part: Part, settings: Settings, seconds: float, say: Say, worker: Sequence[str] = WORKER) -> list[Finding]:
    """All findings of a part, one for each of its tasks.

    Args:
        part: which.
        settings: what is asked for.
        seconds: after which no task is begun any more.
        say: is told what is being done.
        worker: the command that serves a request; see `wavernn_trt.scripts.gpu.worker`.
    """
    tasks = part.tasks(settings)
    findings: list[Finding] = []
    _log(part, settings).unlink(missing_ok=True)
    until = time.monotonic() + seconds
    starts = 0
    while len(findings) < len(tasks):
        reason = "the part's process ended too often"
        if time.monotonic() > until and starts:
            reason = "the time is up"
        elif starts < MOST_STARTS:
            starts += 1
            reason = _serve(part, settings, until, say, worker, tasks, findings)
            if reason and len(findings) < len(tasks):
                task = tasks[len(findings)]
                numbers = {"lost": task.kernel} if task.kernel else {}
                findings.append(Finding.of(part.name, task, Outcome("failed", reason, numbers)))
            continue
        rest = tasks[len(findings) :]
        findings += [Finding.of(part.name, task, Outcome("skipped", reason)) for task in rest]
    return findings


def _serve(
    part: Part,
    settings: Settings,
    until: float,
    say: Say,
    worker: Sequence[str],
    tasks: Sequence[Task],
    findings: list[Finding],
) -> str:
    """One process: adds its findings, and says what ended it inside a task; nothing if it ended between two."""
    with tempfile.TemporaryDirectory() as links:
        environment = dict(part.environment(Path(links) / "links")) if part.environment else dict(os.environ)
        environment["XDG_CACHE_HOME"] = str(_cache(settings.folder))  # nothing is left outside the folder
        log = _log(part, settings).open("a+", encoding="utf-8", errors="replace")
        pipe = subprocess.PIPE
        with log, subprocess.Popen(worker, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment) as process:
            try:
                return _listen(process, part, settings, until, say, tasks, findings, log)
            finally:
                process.kill()


def _listen(
    process: subprocess.Popen[str],
    part: Part,
    settings: Settings,
    until: float,
    say: Say,
    tasks: Sequence[Task],
    findings: list[Finding],
    log: IO[str],
) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    allowed = STARTING_SECONDS
    request = {
        "part": part.name,
        "settings": settings.to_json(),
        "first": len(findings),
        "seconds": until - time.monotonic(),
        "lost": [*settings.lost, *lost(findings)],
        "failed": [found.subject for found in findings if found.status == "failed"],
    }
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.close()
    except BrokenPipeError:  # its end says why
        pass
    threading.Thread(target=_read, args=(process.stdout, events), daemon=True).start()
    while True:
        try:
            event = events.get(timeout=allowed)
        except queue.Empty:
            return f"no answer within {allowed:.0f} s; the process was ended"
        if event is None:
            code = process.wait()
            if len(findings) == len(tasks):
                return ""
            return f"the process ended with {code}: {_last_words(log)}"
        if "lost" in event:
            return ""
        if "begun" in event:
            left = until - time.monotonic()
            patience = part.task_seconds * (HOST_PATIENCE if settings.host else 1)
            allowed = max(1.0, min(patience, left + GRACE_SECONDS))
            task = tasks[event["begun"]]
            say(f"{part.name} {event['begun'] + 1}/{len(tasks)}: {task.subject}, {task.line} {task.name}")
        else:
            outcome = Outcome(event["status"], event["text"], event["numbers"])
            findings.append(Finding.of(part.name, tasks[event["ended"]], outcome, event["seconds"]))


def _cache(folder: Path) -> Path:
    """What stands for the user's cache folder; kernels that are compiled and measured there are the run's own."""
    kernels = folder / "cache" / "wavernn-trt" / "kernels"
    kernels.parent.mkdir(parents=True, exist_ok=True)
    (folder / "kernels").mkdir(exist_ok=True)
    if not kernels.exists():
        kernels.symlink_to((folder / "kernels").resolve(), target_is_directory=True)
    return (folder / "cache").resolve()


def _log(part: Part, settings: Settings) -> Path:
    """What its process prints."""
    return settings.folder / f"{part.name}.log"


def _read(stream: IO[str], events: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        events.put(json.loads(line))
    events.put(None)


def _last_words(log: IO[str]) -> str:
    log.flush()
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-400:] or "it said nothing"
