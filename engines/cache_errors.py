"""What goes wrong with the folder that plans are kept in, and the way out."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from wavernn_trt.engines.sizes import readable_size

ANOTHER_FOLDER = "choose another folder with --cache"
"""The way out that is always there."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class EngineCacheError(ValueError):
    """A cache folder that cannot be used: says what is wrong with it and what to do."""


def explain(error: OSError, folder: Path, needed: int | None = None) -> EngineCacheError:
    """An operating system's error on the cache, with the folder and the way out.

    Args:
        error: what came.
        folder: the cache.
        needed: bytes that were to be written, if that is known.
    """
    number = error.errno or 0
    if number in _FULL:
        wanted = "" if needed is None else f"{readable_size(needed)} needed, "
        quota = " within this user's quota" if number == errno.EDQUOT else ""
        return EngineCacheError(
            f"{folder}: no space left{quota}: {wanted}{_free(folder)}; make room, perhaps with "
            f"'wavernn-trt engines prune', or {ANOTHER_FOLDER}"
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
    return EngineCacheError(f"{folder}: {reason}{about}; {ANOTHER_FOLDER}")


def is_lack_of_room(error: OSError, folder: Path) -> bool:
    """Whether an error says that no more can be written to the folder, and does not name a file elsewhere."""
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
