"""The cache's folder: default location, tag file, locks, and error messages."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from wavernn_trt.export.atomic_file import write_atomic

logger = logging.getLogger(__name__)

TAG = "CACHEDIR.TAG"
"""File that marks a folder as a cache; backup programs know it too: https://bford.info/cachedir/."""
BUILDING = ".building-"
"""Prefix of temporary folders; then follow the key's first eight digits, ``-``, the process id, and random letters."""

_ANOTHER_FOLDER = "choose another folder with --cache"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCKS = "locks"
# Lock files stay after release: removing one that another process waits for would let two processes hold the lock.
_GRACE = 0.3
"""Seconds; long enough for a lock's new holder to create the folder whose name has its process id."""
_UNITS = ("KiB", "MiB", "GiB", "TiB")
_TAG_TEXT = """\
Signature: 8a477f597d28d172789f06886806bc55
# Engines that wavernn-trt has built. They can be built again: 'wavernn-trt engines prune' removes them.
"""


class EngineCacheError(ValueError):
    """A cache folder that cannot be used: the fault and the way out."""


def default_folder() -> Path:
    """Returns the user's cache folder.

    Raises:
        EngineCacheError: platformdirs, which locates it, is not installed.
    """
    try:
        from platformdirs import user_cache_path
    except ImportError:
        raise EngineCacheError(
            "the default engine cache is located with platformdirs; install it with 'pip install platformdirs', "
            f"or {_ANOTHER_FOLDER}"
        ) from None
    return user_cache_path("wavernn-trt") / "engines"


def require_folder(folder: Path) -> None:
    """Checks that the path is a folder or does not exist yet.

    Raises:
        EngineCacheError: it exists and is not a folder, or is not accessible.
    """
    with explained(folder):
        if not folder.is_dir() and os.path.lexists(folder):
            raise EngineCacheError(f"{folder} is not a folder, expected one of plans; {_ANOTHER_FOLDER}")


def is_cache(folder: Path) -> bool:
    """Whether a folder is tagged as a cache; nothing is ever removed from other folders."""
    return (folder / TAG).is_file()


def make_cache(folder: Path) -> None:
    """Creates the folder and its tag.

    Raises:
        EngineCacheError: it contains other files.
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_cache(folder):
        return
    others = sorted(name for name in os.listdir(folder) if name[0] != "." and name != "lost+found")
    if others and not is_cache(folder):  # another process may have created it in the meantime
        raise EngineCacheError(
            f"{folder} is no engine cache: it has no {TAG}, but {others[0]!r} in it; files in a cache may be removed, "
            "so choose an empty folder or a new one"
        )
    write_atomic(folder / TAG, _TAG_TEXT.encode())


@contextmanager
def lock_key(folder: Path, digits: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the lock of a key; waits for any other holder. A lock ends with the process that holds it.

    Args:
        folder: the cache; it must exist.
        digits: the key's first eight.
        waiting: called once with a message if another process holds the lock; by default it is logged as a warning.

    Raises:
        OSError: the lock's file cannot be made.
    """
    lock = _lock(folder, digits)
    try:
        lock.acquire(timeout=_GRACE)
    except Timeout:
        (waiting or logger.warning)(f"waiting for {holder(folder, digits)}, which is building the same plan")
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def try_lock_key(folder: Path, digits: str) -> Iterator[bool]:
    """Holds the lock of a key if it is free; yields whether it was.

    Raises:
        OSError: the lock's file cannot be made.
    """
    lock = _lock(folder, digits)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(folder: Path, digits: str) -> bool:
    """Whether the lock of a key is held; changes nothing in the folder."""
    if not (folder / _LOCKS / digits).exists():
        return False
    try:
        with try_lock_key(folder, digits) as held:
            return not held
    except OSError:
        return False


def holder(folder: Path, digits: str) -> str:
    """Returns the holder of a key's lock, for messages."""
    numbers = [path.name.split("-")[2] for path in folder.glob(f"{BUILDING}{digits}-*-*")]
    return f"process {numbers[0]}" if len(numbers) == 1 else "another process"


def _lock(folder: Path, digits: str) -> FileLock:
    path = folder / _LOCKS / digits
    path.parent.mkdir(exist_ok=True)
    return FileLock(path)


@contextmanager
def explained(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Converts an `OSError` to an `EngineCacheError`; see `explain`."""
    try:
        yield
    except OSError as error:
        raise explain(error, folder, needed) from error


def explain(error: OSError, folder: Path, needed: int | None = None) -> EngineCacheError:
    """Returns an `OSError` on the cache as an error with the folder and the way out.

    Args:
        error: the cause.
        folder: the cache.
        needed: bytes that were to be written, if known.
    """
    number = error.errno or 0
    if number in _FULL:
        wanted = "" if needed is None else f"{readable_size(needed)} needed, "
        quota = " within this user's quota" if number == errno.EDQUOT else ""
        return EngineCacheError(
            f"{folder}: no space left{quota}: {wanted}{_free(folder)}; make room, perhaps with "
            f"'wavernn-trt engines prune', or {_ANOTHER_FOLDER}"
        )
    reason = {
        errno.EFBIG: "files may not be as large as a plan here (see 'ulimit -f')",
        errno.EROFS: "is on a file system that is read-only",
        errno.EACCES: "this user may not write there",
        errno.EPERM: "this user may not write there",
        errno.ENOTDIR: "is not a folder",
        errno.EEXIST: "is not a folder",
    }.get(number, error.strerror or str(error))
    name = error.filename
    about = f" ({name})" if name and Path(os.fsdecode(name)) != folder else ""
    return EngineCacheError(f"{folder}: {reason}{about}; {_ANOTHER_FOLDER}")


def is_lack_of_room(error: OSError, folder: Path) -> bool:
    """Whether an error means that the folder's disk is full; errors that name a file elsewhere do not count."""
    if error.errno not in (*_FULL, errno.EFBIG):
        return False
    return error.filename is None or folder in Path(os.fsdecode(error.filename)).parents


def _free(folder: Path) -> str:
    for place in (folder, *folder.parents):
        try:
            return f"{readable_size(shutil.disk_usage(place).free)} free"
        except OSError:
            continue
    return "none free"


def readable_size(size: float) -> str:
    """Returns a number of bytes with a binary unit, as in ``298.4 MiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in _UNITS:
        size /= 1024
        if size < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{size:.1f} {unit}"
