"""What two processes share: named memory, and marks by which each sees whether the other still runs; on Linux."""

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
"""Where Linux keeps POSIX shared memory, as files."""
Mark = tuple[int, int, int]
"""Identifies a process: its number, its start time and the namespace of the number; all zero for none."""


class SharedSegment:
    """A segment of POSIX shared memory, mapped into this process.

    Python's own class makes it, so that its resource tracker removes the name should this process be killed. Everything
    else is done here, for three reasons. Before Python 3.13 that class also tracks segments that it only attaches to,
    and a tracker that ends with its process would remove them under their owner. Its mapping cannot be closed, nor
    collected without noise, while arrays on it are alive. And it takes no memory until pages are touched, which kills
    the process where there is none.
    """

    def __init__(self, memory: mmap, name: str) -> None:
        """Takes a mapping; `create` and `attach` are the ways to get one."""
        self.memory = memory
        """All of it; unmapped when the last array on it is gone."""
        self.name = name
        """By which another process attaches it."""
        self.remove: Callable[[], object] = lambda: None
        """Removes the name, in the process that created it; processes that have mapped the segment keep it."""

    @classmethod
    def create(cls, name: str | None, size: int) -> SharedSegment:
        """Makes a new segment, whose name lives until `remove` or the object's end.

        Args:
            name: without slashes; ``None`` chooses one.
            size: bytes.

        Raises:
            VocoderError: the name is taken or not one, or there is not enough memory.
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
        """Maps the segment that another process made.

        Raises:
            VocoderError: there is none of that name, or it is not this user's.
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
            f"shared memory {name!r}: found none of that name; it lives as long as the process that made it keeps it"
        ) from None
    except (OSError, ValueError) as error:  # an empty file is a ValueError
        raise VocoderError(f"shared memory {name!r}: {getattr(error, 'strerror', None) or error}") from None


def _path(name: str) -> Path:
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in (".", "..") or len(name) > 250:
        raise VocoderError(f"shared memory: found name {name!r}, expected one without slashes, up to 250 characters")
    return FOLDER / name


def _remove(made: SharedMemory, creator: int) -> None:
    # A forked child has this object as well, and it must not take the name from its parent.
    if os.getpid() == creator:
        made.unlink()


def own_mark() -> Mark:
    """This process's."""
    return os.getpid(), _started(os.getpid()), _namespace()


def has_ended(mark: Mark) -> bool:
    """Whether that process has certainly ended; of one in another container that is not known."""
    process, started, namespace = mark
    return process != 0 and namespace == _namespace() and _started(process) != started


def _started(process: int) -> int:
    """Start time in clock ticks since boot, which a later process of the same number does not share; 0 if it ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return 0
    fields = text.rpartition(b")")[2].split()  # the name in front may hold spaces and parentheses
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
