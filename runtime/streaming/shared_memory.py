"""Named shared memory, and marks that identify a process and show whether it still runs; on Linux."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from wavernn_trt.runtime.errors import VocoderError

if TYPE_CHECKING:
    from multiprocessing.shared_memory import SharedMemory

FOLDER = Path("/dev/shm")
"""Folder of POSIX shared memory on Linux."""
Mark = tuple[int, int, int]
"""Identifies a process: its number (PID), its start time and its PID namespace; all zero for none."""


class SharedSegment:
    """A segment of POSIX shared memory, mapped into this process.

    `multiprocessing.shared_memory.SharedMemory` creates the segment, so that its resource tracker removes the name if
    this process is killed. The mapping is made here, for three reasons. Before Python 3.13 that class also tracks
    segments that it only attaches, and the tracker of an attached process would remove them while the owner uses them.
    Its mapping cannot be closed, or collected without a warning, while arrays on it are alive. It does not allocate
    pages in advance: if memory runs out later, the process is killed.
    """

    def __init__(self, memory: mmap, name: str) -> None:
        """Wraps a mapping; use `create` or `attach`."""
        self.memory = memory
        """The whole segment; unmapped when the last array on it is deleted."""
        self.name = name
        """Name with which another process attaches the segment."""
        self.remove: Callable[[], object] = lambda: None
        """Removes the name, in the creating process only; existing mappings stay valid."""

    @classmethod
    def create(cls, name: str | None, size: int) -> SharedSegment:
        """Creates a segment, whose name exists until `remove` or the end of this object.

        Args:
            name: a name without slashes; ``None`` chooses one.
            size: size in bytes.

        Raises:
            VocoderError: the name is in use or not valid, or there is not enough memory.
        """
        from multiprocessing.shared_memory import SharedMemory  # not needed to stream within a process

        if name is not None:
            _path(name)
        try:
            made = SharedMemory(name, create=True, size=size)
        except FileExistsError:
            raise VocoderError(
                f"shared memory {name!r}: found one of that name, expected none; take another name, or None"
            ) from None
        except OSError as error:
            raise VocoderError(f"shared memory of {size} bytes: {error.strerror or error}") from None
        try:
            made.close()
            memory = _map(made.name, allocate=size)
        except BaseException:
            made.unlink()
            raise
        segment = cls(memory, made.name)
        segment.remove = weakref.finalize(segment, _remove, made, os.getpid())
        return segment

    @classmethod
    def attach(cls, name: str) -> SharedSegment:
        """Maps a segment that another process created.

        Raises:
            VocoderError: no segment has that name, or this user may not open it.
        """
        return cls(_map(name), name)


def _map(name: str, allocate: int = 0) -> mmap:
    path = _path(name)
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if allocate:
                os.posix_fallocate(file, 0, allocate)
            return mmap(file, os.fstat(file).st_size)
        finally:
            os.close(file)
    except FileNotFoundError:
        raise VocoderError(
            f"shared memory {name!r}: found none of that name; it exists while the process that created it keeps it"
        ) from None
    except (OSError, ValueError) as error:  # an empty file raises ValueError
        raise VocoderError(f"shared memory {name!r}: {getattr(error, 'strerror', None) or error}") from None


def _path(name: str) -> Path:
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in (".", "..") or len(name) > 250:
        raise VocoderError(f"shared memory: found name {name!r}, expected one without slashes, up to 250 characters")
    return FOLDER / name


def _remove(made: SharedMemory, creator: int) -> None:
    # A forked child has a copy of this object and must not remove its parent's name.
    if os.getpid() == creator:
        made.unlink()


def own_mark() -> Mark:
    """Returns the mark of this process."""
    return os.getpid(), _started(os.getpid()), _namespace()


def has_ended(mark: Mark) -> bool:
    """Returns whether that process has ended; false if it cannot be checked (another PID namespace)."""
    process, started, namespace = mark
    return process != 0 and namespace == _namespace() and _started(process) != started


def _started(process: int) -> int:
    """Returns a process's start time in clock ticks since boot, which tells reused PIDs apart; 0 if it has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return 0
    fields = text.rpartition(b")")[2].split()  # the command name before it may contain spaces and parentheses
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
