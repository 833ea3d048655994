"""One builder for one key: locks on files, which end with the process that holds them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wavernn_trt.engines.cache_errors import EngineCacheError

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

BUILDING = ".building-"
"""How a builder's folder is called: this, the key's first eight digits, ``-``, its process's number, and a rest."""

_LOCKS = "locks"
# Their files stay when locks are released: removing one that somebody waits for would let two in.
_GRACE = 0.3
"""Seconds; enough for who got a lock to have made the folder that tells its number."""


@contextmanager
def lock_key(folder: Path, digits: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the lock of a key, after waiting for whoever has it.

    Args:
        folder: the cache; it must exist.
        digits: the key's first eight.
        waiting: told, once, for whom this waits; by default a warning is logged.

    Raises:
        EngineCacheError: filelock is not installed.
        OSError: the lock's file cannot be made.
    """
    lock = _lock(folder, digits)
    if not _acquire(lock, timeout=_GRACE):
        say = waiting or logger.warning
        say(f"waiting for {holder(folder, digits)}, which is building the same plan")
        _acquire(lock, timeout=-1)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def try_lock_key(folder: Path, digits: str) -> Iterator[bool]:
    """Holds the lock of a key if nobody has it, and says whether it does.

    Raises:
        EngineCacheError: filelock is not installed.
        OSError: the lock's file cannot be made.
    """
    lock = _lock(folder, digits)
    held = _acquire(lock, timeout=0)
    try:
        yield held
    finally:
        if held:
            lock.release()


def is_locked(folder: Path, digits: str) -> bool:
    """Whether somebody has the lock of a key; leaves the folder as it is."""
    if not (folder / _LOCKS / digits).exists():
        return False
    try:
        with try_lock_key(folder, digits) as held:
            return not held
    except OSError:
        return False


def holder(folder: Path, digits: str) -> str:
    """Who holds the lock of a key, for people."""
    numbers = [path.name.split("-")[2] for path in folder.glob(f"{BUILDING}{digits}-*-*")]
    return f"process {numbers[0]}" if len(numbers) == 1 else "another process"


def _lock(folder: Path, digits: str) -> BaseFileLock:
    try:
        from filelock import FileLock
    except ImportError:
        raise EngineCacheError("building plans needs filelock; install it with: pip install filelock") from None
    path = folder / _LOCKS / digits
    path.parent.mkdir(exist_ok=True)
    return FileLock(path)


def _acquire(lock: BaseFileLock, timeout: float) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    return True
