"""Output files that get their name only when complete, and removal of temporary files that killed runs leave."""

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
"""Names of temporary files."""
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)
"""Errors of file systems on which folders cannot or need not be flushed."""


def prepare_output(path: Path, *, prove: bool = True) -> None:
    """Creates the folder of an output file, and checks that the file can be written.

    Args:
        path: the file.
        prove: whether to create and remove a file beside it; needed once per folder.

    Raises:
        OSError: the file cannot be written; the error names ``path``.
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
    """Whether an output exists; always ``False`` for standard output, even if it is redirected to a file."""
    return not is_standard_output(path) and os.path.isfile(path)  # Path.is_file raises for a name too long


class OutputFile(Protocol):
    """A file that is written completely or not at all."""

    @property
    def folder(self) -> Path | None:
        """Folder of the file; ``None`` for standard output."""

    def write(self, content: bytes | memoryview) -> None:
        """Appends to the contents."""

    def flush(self) -> None:
        """Waits until the contents are stored durably."""

    def publish(self) -> None:
        """Makes the contents visible under the file's name."""

    def discard(self) -> None:
        """Removes the contents."""


class WholeFile:
    """A file that is written under a temporary name in its own folder, and renamed when complete.

    The temporary file is locked while it is written. One without a lock was left by a process that was killed; this
    holds across processes and machines (`remove_leftovers`). All errors name the file's own path.
    """

    def __init__(self, path: Path) -> None:
        """Creates the temporary file, and the folder if necessary.

        Raises:
            OSError: the file cannot be created.
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
        return self.path.parent

    def write(self, content: bytes | memoryview) -> None:
        with self._discarding():
            self._file.write(content)

    def rewrite_beginning(self, content: bytes) -> None:
        """Replaces the first bytes of what was written."""
        with self._discarding():
            self._file.seek(0)
            self._file.write(content)
            self._file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        """Waits until the contents are on the disk, so that a power failure leaves no name without contents."""
        with self._discarding():
            self._file.flush()
            os.fsync(self._file.fileno())

    def publish(self) -> None:
        """Renames the file to its own name, and replaces any existing file."""
        with self._discarding():
            if os.name == "nt":
                self._file.close()  # Windows does not rename open files
            else:
                self._file.flush()  # closed after the rename, so that the lock protects the temporary file
            os.replace(self._temporary, self.path)
            self._file.close()

    def discard(self) -> None:
        """Removes the temporary file; may be called repeatedly."""
        if os.name != "nt":  # Windows does not remove open files
            self._temporary.unlink(missing_ok=True)
        with suppress(OSError):
            self._file.close()  # tries again to write buffered content
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
    """Waits until a folder's names are on the disk, if its file system supports that.

    Raises:
        OSError: the disk failed.
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
    """Locks an open file until it is closed or the process ends; does not wait.

    Args:
        descriptor: of a file opened for writing, which network file systems require.

    Returns:
        Whether the lock was acquired; ``False`` if another process, or another descriptor of the file, holds it.
        ``None`` without such locks: on some network file systems, and on Windows, where they would block readers.
    """
    if sys.platform == "win32":
        return None
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Removes temporary files whose writers have ended, and returns their number.

    A locked file is still being written and is kept. On file systems without locks all are kept. Folders that do not
    exist are skipped.
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
        logger.warning("%s was left by a run that was killed, and cannot be removed: %s", path, error.strerror)
    finally:
        os.close(descriptor)
    return False


def _create(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = _temporary(path)
        file = temporary.open("xb")
        # `remove_leftovers` in another process may have removed the file before it was locked.
        if try_lock(file.fileno()) is None or _is_still(file.fileno(), temporary):
            return temporary, file
        file.close()
        temporary.unlink(missing_ok=True)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether a path still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _temporary(path: Path) -> Path:
    # In the same folder, so that the rename stays on one file system. Not derived from the output's name, which may
    # already be near the maximum length.
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part")
