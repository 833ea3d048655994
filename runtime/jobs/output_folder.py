"""The lock on an output folder: two runs into one would do all work twice."""

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
"""Name of the locked file in the folder. It is removed when the run ends, and harmless if it stays."""
_MOST_CHARACTERS = 1000
"""Characters that are read of the lock file's text."""
_WAIT_SECONDS = 0.2
"""A run that is just ending removes its lock file; the next one then makes its own."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""Errors of file systems without locks."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keeps an output folder to this process for as long as the context lasts; the kernel ends it with the process.

    Where the file system has no locks (some network file systems), a warning says so, and it is the user's part to
    start no second run into the folder: it would not damage files, but do work twice. A folder that cannot be made or
    written to is not locked: writing its files will fail with the reason.

    Args:
        folder: is made if need be.

    Raises:
        VocoderError: another process holds it, which the message names; or a link has the lock's name.
    """
    lock = _lock(folder)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                (folder / LOCK).unlink()  # while it is locked: a process that waits for it then makes another
            lock.release()


def _lock(folder: Path) -> FileLock | None:
    path = folder / LOCK
    lock = FileLock(path, timeout=_WAIT_SECONDS, fallback_to_soft=False, on_acquired=_name_holder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise VocoderError(
            f"output {folder}: {_holder(path)} is writing into this folder, and two runs would do all work twice; wait "
            "for it or end it, and what is left will be done, or choose another output folder"
        ) from None
    except OSError as error:
        if path.is_symlink():  # whose target would be written over
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
    with suppress(OSError):  # a full disk: the lock holds without its text
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(path: Path) -> str:
    try:
        with path.open() as text:
            holder = json.loads(text.read(_MOST_CHARACTERS))
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
