"""The lock on an output folder: two runs into one would do all work twice."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.file_lock import is_still, try_lock

logger = logging.getLogger(__name__)

LOCK = ".wavernn-trt.lock"
"""The file in the folder that is locked; it goes when the run ends, and means nothing if it stays."""
_MOST_BYTES = 1000
"""Of what it says."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keeps an output folder to this process for as long as the context lasts; the kernel ends it with the process.

    Where that cannot be, because the file system has no locks (Windows; some network file systems), a warning says so,
    and it is the user's part to start no second run into the folder: it would not damage files, but do work twice. A
    folder that cannot be made or written to is not locked: its files will say why.

    Args:
        folder: is made if need be.

    Raises:
        VocoderError: another process holds it, and the message says which; or a link has the lock's name.
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                (folder / LOCK).unlink()  # while it is locked: who waits for it sees that it is gone
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666)
        except OSError as error:
            if path.is_symlink():  # whose target would be written over
                raise VocoderError(
                    f"output {folder}: found a link {LOCK}, expected a file or nothing; remove it"
                ) from None
            logger.debug("%s cannot be locked: %s", folder, error)
            return None
        locked = try_lock(descriptor)
        if locked and is_still(descriptor, path):
            with suppress(OSError):  # a full disk: the lock holds without its text
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
            return descriptor
        holder = _holder(descriptor) if locked is False else ""
        os.close(descriptor)
        if locked is None:
            with suppress(OSError):
                path.unlink()
            logger.warning(
                "%s: this file system has no locks; start no second run into the folder before this one ends", folder
            )
            return None
        if holder:
            raise VocoderError(
                f"output {folder}: {holder} is writing into this folder, and two runs would do all work twice; wait "
                "for it or end it, and what is left will be done, or choose another output folder"
            )


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
