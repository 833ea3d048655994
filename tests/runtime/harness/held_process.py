"""A process that waits while a test examines its locks and files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 60
"""Longer than a process takes to end on any machine."""


@contextmanager
def held_process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs code that prints ``ready`` and then waits until its input ends; kills it on exit."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running
    finally:
        running.kill()
        running.communicate(timeout=SECONDS)
