"""Lock on an output folder, so that two runs into one folder do not repeat each other's work."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from wavernn_trt.runtime.errors import VocoderError

logger = logging.getLogger(__name__)

LOCK = ".wavernn-trt.lock"
"""Name of the lock file in the folder. It is removed when the run ends; a leftover file is harmless."""
_MAX_CHARACTERS = 1000
"""Characters read from the lock file."""
_WAIT_SECONDS = 0.2
"""Timeout of the lock, so that a run which is just ending can remove its lock file."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""Errors of file systems without locks."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Locks an output folder for this process while the context lasts; the lock ends with the process.

    Where the file system has no locks (some network file systems), a warning is logged: a second run into the folder
    would repeat work, but damage no files. A folder that cannot be created or written to is not locked; writing its
    files will fail with the reason.

    Args:
        folder: is created if necessary.

    Raises:
        VocoderError: another process holds the lock, or a link has the lock file's name.
    """
    lock = _lock(folder)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                (folder / LOCK).unlink()  # while still locked: a waiting process then creates a new file
            lock.release()


def _lock(folder: Path) -> FileLock | None:
    path = folder / LOCK
    lock = FileLock(path, timeout=_WAIT_SECONDS, fallback_to_soft=False, on_acquired=_name_holder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise VocoderError(
            f"output {folder}: {_holder(path)} is writing into this folder, and a second run would repeat its work; "
            "wait for it, or end it and start again to do the rest, or choose another output folder"
        ) from None
    except OSError as error:
        if path.is_symlink():  # its target would be overwritten
            raise VocoderError(f"output {folder}: found a link {LOCK}, expected a file or nothing; remove it") from None
        if error.errno in _NO_LOCKS:
            with suppress(OSError):
                path.unlink()
            logger.warning(
                "%s: this file system has no locks; start no second run into the folder before this one ends", folder
            )
        logger.debug("%s cannot be locked: %s", folder, error)
        return None
    return lock


def _name_holder(descriptor: int) -> None:
    with suppress(OSError):  # on a full disk the lock is still valid, without its text
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(path: Path) -> str:
    try:
        with path.open() as text:
            holder = json.loads(text.read(_MAX_CHARACTERS))
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
