"""A process as another one may recognise it, to learn whether it still runs; on Linux."""

from __future__ import annotations

import os
from pathlib import Path

Mark = tuple[int, int, int]
"""Number, start time, and the namespace in which the number means something; all zero for nobody."""


def own_mark() -> Mark:
    """This process's."""
    return os.getpid(), _started(os.getpid()), _namespace()


def has_ended(mark: Mark) -> bool:
    """Whether that process is surely gone; one in another container cannot be judged."""
    process, started, namespace = mark
    return process != 0 and namespace == _namespace() and _started(process) != started


def _started(process: int) -> int:
    """Start time in clock ticks since boot, which tells a process from a later one of the same number; 0 if gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return 0
    fields = text.rpartition(b")")[2].split()  # the name in front may hold spaces and parentheses
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
