"""TensorRT's log and progress as lines of JSON, for the parent of a build process."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from typing import IO, Any

_PARSING = re.compile(r"(?:Parsing node: |Searching for importer: )(\S+)")
_INTERVAL = 0.1
"""Seconds between two reports of progress."""


class Events:
    """Writes events for the parent process; each is flushed at once, since TensorRT may abort at any moment."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # TensorRT logs from threads of its own

    def send(self, event: str, **values: Any) -> None:
        """Writes one event."""
        with self._lock:
            self._stream.write(json.dumps({"event": event, **values}) + "\n")
            self._stream.flush()


class PluginLog(logging.Handler):
    """Forwards the plugins' warnings and errors; TensorRT's own log gives no reason for a plugin's failure."""

    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.send("log", severity=record.levelname, text=record.getMessage())


def event_logger(trt: Any, events: Events) -> Any:
    """Returns a logger for a TensorRT module; set its ``parsed`` once the graph is parsed."""

    class EventLogger(trt.ILogger):  # type: ignore[misc]
        """Forwards warnings and errors, and the name of each node while a graph is parsed."""

        parsed = False

        def log(self, severity: Any, text: str) -> None:
            if severity.value <= trt.ILogger.Severity.WARNING.value:
                events.send("log", severity=severity.name, text=text.strip())
            elif not self.parsed and (match := _PARSING.search(text)):
                events.send("node", name=match.group(1))

    return EventLogger()


def event_monitor(trt: Any, events: Events) -> Any:
    """Returns a progress monitor for a TensorRT module."""

    class EventMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Converts TensorRT's nested phases to one share of the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: list[tuple[str, int, int]] = []  # name, steps, steps done: outermost first
            self._reported = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.append((phase_name, max(num_steps, 1), 0))
            self._report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._phases = [
                (name, steps, step + 1 if name == phase_name else done) for name, steps, done in self._phases
            ]
            self._report(phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._phases = [phase for phase in self._phases if phase[0] != phase_name]

        def _report(self, phase_name: str) -> None:
            now = time.perf_counter()
            if now - self._reported < _INTERVAL:
                return
            self._reported = now
            share, width = 0.0, 1.0
            for _, steps, done in self._phases:
                share += width * min(done, steps) / steps
                width /= steps
            events.send("progress", phase=phase_name, share=round(min(share, 1.0), 4))

    return EventMonitor()
