"""The folder that plans are kept in: where it is by default, and how it is told from a folder of other files."""

from __future__ import annotations

import os
from pathlib import Path

from wavernn_trt.engines.cache_errors import ANOTHER_FOLDER, EngineCacheError, explain
from wavernn_trt.export.atomic_file import write_atomic

TAG = "CACHEDIR.TAG"
"""Marks a folder as a cache, for backup programs too: https://bford.info/cachedir/."""

_TAG_TEXT = """\
Signature: 8a477f597d28d172789f06886806bc55
# Engines that wavernn-trt has built. They can be built again: 'wavernn-trt engines prune' removes them.
"""


def default_folder() -> Path:
    """Where plans are kept unless somebody says otherwise.

    Raises:
        EngineCacheError: platformdirs, which knows the place, is not installed.
    """
    try:
        from platformdirs import user_cache_path
    except ImportError:
        raise EngineCacheError(
            "the place of the engine cache is found with platformdirs; install it with 'pip install platformdirs', "
            f"or {ANOTHER_FOLDER}"
        ) from None
    return user_cache_path("wavernn-trt") / "engines"


def require_folder(folder: Path) -> None:
    """Refuses something else in the folder's place; one that does not exist yet is fine.

    Raises:
        EngineCacheError: it is there and is not a folder, or cannot be looked at.
    """
    try:
        if not folder.is_dir() and os.path.lexists(folder):
            raise EngineCacheError(f"{folder} is not a folder, expected one of plans; {ANOTHER_FOLDER}")
    except OSError as error:
        raise explain(error, folder) from error


def is_cache(folder: Path) -> bool:
    """Whether a folder has been made for plans; nothing is ever removed from another one."""
    return (folder / TAG).is_file()


def make_cache(folder: Path) -> None:
    """Makes the folder and marks it.

    Raises:
        EngineCacheError: it has other files in it.
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_cache(folder):
        return
    others = sorted(name for name in os.listdir(folder) if name[0] != "." and name != "lost+found")
    if others and not is_cache(folder):  # another process may have made it in the meantime
        raise EngineCacheError(
            f"{folder} is no engine cache: it has no {TAG}, but {others[0]!r} in it; plans that are no longer used are "
            "removed from a cache, so choose an empty folder or a new one"
        )
    write_atomic(folder / TAG, _TAG_TEXT.encode())
