"""Output files that appear under their names when they are whole, and removal of what killed writers leave."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from filelock import lock_descriptor

from wavernn_trt.export.atomic_file import errors_naming
from wavernn_trt.runtime.files.standard_streams import is_standard_output

logger = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.part")
"""Names of files that are being written."""
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)
"""Errors of file systems that need no flush of a folder, or do not offer it."""


def prepare_output(path: Path, *, prove: bool = True) -> None:
    """Makes the folder of a file that is to be written, and proves that it can be.

    Args:
        path: the file.
        prove: create a file beside it, and remove it; another file of the same folder may have proved as much.

    Raises:
        OSError: it cannot, with ``path`` as the file's name.
    """
    with errors_naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} cannot be a folder: a file is there") from None
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if not stat.S_ISREG(mode):
            raise FileExistsError(errno.EEXIST, "found something that is not a file; move it, or name another output")
        if prove:
            temporary = _temporary(path)
            temporary.touch(exist_ok=False)
            temporary.unlink(missing_ok=True)


def is_finished(path: Path) -> bool:
    """Whether an output is there already; standard output never is, even where it is redirected to a file."""
    return not is_standard_output(path) and os.path.isfile(path)  # Path.is_file raises for a name too long


class OutputFile(Protocol):
    """A file that is written whole or not at all."""

    @property
    def folder(self) -> Path | None:
        """Where its name appears; ``None`` where it has none."""

    def write(self, content: bytes | memoryview) -> None:
        """Appends to the contents."""

    def flush(self) -> None:
        """Waits until the contents are kept."""

    def publish(self) -> None:
        """Makes the contents appear."""

    def discard(self) -> None:
        """Gives the contents up."""


class WholeFile:
    """A file that is written under a temporary name, in the folder where it gets its own when it is whole.

    It is locked while it is written: a temporary file without a lock was left by a process that was killed, whichever
    process and machine looks (`remove_leftovers`).
    """

    def __init__(self, path: Path) -> None:
        """Creates the temporary file, and the folder if need be.

        Args:
            path: the file's own name.

        Raises:
            OSError: it cannot be created, with ``path`` as the file's name. So do all other errors here.
        """
        self.path = path
        with errors_naming(path):
            try:
                self._temporary, self._file = _create(path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._temporary, self._file = _create(path)

    @property
    def folder(self) -> Path:
        """Where its name appears."""
        return self.path.parent

    def write(self, content: bytes | memoryview) -> None:
        """Appends to the contents."""
        with self._discarding():
            self._file.write(content)

    def flush(self) -> None:
        """Waits until the contents are on the disk, so that no power failure leaves a name without them."""
        with self._discarding():
            self._file.flush()
            os.fsync(self._file.fileno())

    def publish(self) -> None:
        """Gives the file its name, in place of any that has it."""
        with self._discarding():
            if os.name == "nt":
                self._file.close()  # Windows does not rename what is open
            else:
                self._file.flush()  # and elsewhere the lock is kept until there is nothing to clear away
            os.replace(self._temporary, self.path)
            self._file.close()

    def discard(self) -> None:
        """Removes what was written; afterwards, too, it may be called again."""
        if os.name != "nt":  # which removes nothing that is open
            self._temporary.unlink(missing_ok=True)
        with suppress(OSError):
            self._file.close()  # tries once more to write what is buffered
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            with errors_naming(self.path):
                yield
        except BaseException:
            self.discard()
            raise


def flush_folder(folder: Path) -> None:
    """Waits until a folder's names are on the disk, where its file system offers that.

    Raises:
        OSError: the disk fails.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file until it is closed, without waiting; the kernel ends the lock with the process.

    Args:
        descriptor: of a file that is open for writing, which network file systems ask for.

    Returns:
        Whether it is locked now; ``False`` if another process, or another opening of the file, holds it. ``None`` where
        there are no such locks: on some network file systems, and on Windows, where they would also keep readers out.
    """
    if sys.platform == "win32":
        return None
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Removes temporary files whose writers are gone; those that are being written stay, and so do all other files.

    Where a file system has no locks the two look alike, and all stay.

    Args:
        folders: where to look; those that are not there have none.

    Returns:
        How many were removed.
    """
    removed = 0
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]
        except OSError:
            continue
        removed += sum(_remove_abandoned(folder / name) for name in names)
    return removed


def _remove_abandoned(path: Path) -> bool:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        if try_lock(descriptor) and _is_still(descriptor, path):
            path.unlink()
            return True
    except OSError as error:
        logger.warning("%s is left by a run that was killed, and cannot be removed: %s", path, error.strerror)
    finally:
        os.close(descriptor)
    return False


def _create(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = _temporary(path)
        file = temporary.open("xb")
        # `remove_leftovers` of another process may have removed the file before it was locked.
        if try_lock(file.fileno()) is None or _is_still(file.fileno(), temporary):
            return temporary, file
        file.close()
        temporary.unlink(missing_ok=True)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether a path is the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _temporary(path: Path) -> Path:
    # In the same folder, so that the rename at the end does not cross file systems. The name is short and its own,
    # because one made from an output's name would be too long where that is nearly so.
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part")
