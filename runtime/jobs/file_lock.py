"""Locks on open files that the kernel keeps: however their process ends, they end with it."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file (``flock``) until it is closed, without waiting.

    Args:
        descriptor: of a file that is open for writing, which network file systems ask for.

    Returns:
        Whether it is locked now; ``False`` if another process, or another opening of the file, holds it. ``None`` where
        there are no such locks: on Windows, and on some network file systems.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def is_still(descriptor: int, path: Path) -> bool:
    """Whether a path is the open file: who waits for a lock may find that its file was removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False
