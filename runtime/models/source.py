"""Finds model directories by name and version, and notices when one was replaced."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from wavernn_trt.export.model_directory import MANIFEST, ModelDirectoryError, file_sha256
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.errors import VocoderError

SETTLED_SECONDS = 2.0
"""A file that changed more recently is read again at each request: some file systems have times of a second or two."""
_REMEMBERED = 1024
"""Files and folders whose contents are remembered at most."""
_LISTED = 10
"""Names that an error lists at most."""

Content = TypeVar("Content")
DirectoryStamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ModelKey:
    """What a model is requested by."""

    name: str
    version: str | None = None
    """``None`` is the newest."""
    precision: WeightPrecision | None = None
    """On a GPU; ``None`` is that of the engine that was used last, and for ``cuda`` what suits the GPU."""
    backend: str = "auto"
    """As for `Vocoder.load`."""

    def __str__(self) -> str:
        """Its parts, without defaults: ``alto/2/fp16``."""
        parts = (self.name, self.version, self.precision, None if self.backend == "auto" else self.backend)
        return "/".join(part for part in parts if part is not None)


@dataclass(frozen=True)
class ModelSource:
    """A model that was found."""

    name: str
    version: str | None
    """``None`` where a model has no versions."""
    path: Path
    """Its model directory."""


Resolver = Callable[[str, str | None], ModelSource]
"""From a name and a version, or ``None`` for the newest, to a model. May name it otherwise, for aliases. Called by
several threads at once; raises `ValueError` for what it does not know."""


class ReadOnce(Generic[Content]):
    """Remembers what was read from a file or folder until its inode, size or times change: one ``stat`` a call."""

    def __init__(self, read: Callable[[Path], Content], keep: Callable[[Content], bool] = lambda content: True) -> None:
        """Starts empty.

        Args:
            read: reads a file or folder.
            keep: whether content may be remembered.
        """
        self._read = read
        self._keep = keep
        self._known: dict[Path, tuple[tuple[int, ...], Content]] = {}

    def __call__(self, path: Path) -> Content:
        try:
            found = os.stat(path)
        except OSError:
            return self._read(path)  # which reports it
        stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        content = self._read(path)
        age = time.time() - max(found.st_mtime, found.st_ctime)
        if age >= SETTLED_SECONDS and self._keep(content):
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[path] = stamp, content
        return content

    def forget(self, path: Path) -> None:
        """Reads a file or folder again at the next call."""
        self._known.pop(path, None)


class ModelFolders:
    """The built-in `Resolver`: ``ROOT/NAME/VERSION/`` or, for a model without versions, ``ROOT/NAME/``.

    The newest version is the last in natural order: ``v10`` comes after ``v9``. Folders whose name begins with a dot,
    as those that an export is still writing, and folders that are no model directories are passed over.

    ``ROOT/NAME`` is scanned again when it has changed, and as long as it has folders that are no model directories, as
    one that is still being copied. So a new version is found by the next request.
    """

    def __init__(self, root: str | Path) -> None:
        """Takes the folder.

        Args:
            root: holds a folder for each model.

        Raises:
            VocoderError: it is not there.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise VocoderError(f"{self.root} is not a folder; expected one with a folder for each model: NAME/VERSION/")
        self._scan: ReadOnce[tuple[list[str], bool]] = ReadOnce(_versions, keep=lambda found: found[1])

    def __call__(self, name: str, version: str | None = None) -> ModelSource:
        """Finds a model.

        Args:
            name: a folder's.
            version: a folder's inside it; ``None`` is the newest.

        Raises:
            VocoderError: there is none; the message lists those that are there.
        """
        folder = self._entry(self.root, "model", name)
        if _is_model(folder):
            if version is not None:
                raise VocoderError(f"version: found {version!r}, but {folder} has no versions; leave it out")
            return ModelSource(name, None, folder)
        versions, _ = self._scan(folder)
        if not all(_is_model(folder / newest) for newest in versions[-1:]):  # a manifest was removed since the scan
            self._scan.forget(folder)
            versions, _ = self._scan(folder)
        if not versions:
            raise VocoderError(
                f"{folder} holds no model directory; make one with: wavernn-trt export CHECKPOINT -o {folder / '1'}"
            )
        chosen = versions[-1] if version is None else version
        path = self._entry(folder, "version", chosen)
        if not _is_model(path):
            raise VocoderError(f"{path} is not a model directory; expected one of {_list(versions)}")
        return ModelSource(name, chosen, path)

    def _entry(self, folder: Path, kind: str, name: str) -> Path:
        # Names may come from a service's clients: none may lead out of the folder.
        if not name or name.startswith(".") or "\0" in name or Path(name).name != name or "\\" in name:
            raise VocoderError(f"{kind}: found {name!r}, expected the name of a folder in {folder}")
        path = folder / name
        if not os.path.isdir(path):  # Path.is_dir raises for a name too long
            there = [entry.name for entry in _folders(folder)]
            raise VocoderError(f"{kind}: found {name!r}, expected one of {_list(sorted(there, key=natural_order))}")
        return path


def fingerprint(directory: Path) -> str:
    """Identifies an export: the SHA-256 of its ``manifest.json``, which holds all other files' hashes.

    Args:
        directory: a model directory.

    Raises:
        ModelDirectoryError: it has no manifest that can be read.
    """
    try:
        return file_sha256(directory / MANIFEST)
    except OSError as error:
        raise ModelDirectoryError(
            f"{directory / MANIFEST}: {error.strerror}, so {directory} is not a model directory. "
            "Make one with: wavernn-trt export CHECKPOINT -o DIR"
        ) from None


def directory_stamp(directory: Path | None) -> DirectoryStamp | None:
    """Names, sizes and times of a directory's files; empty if it cannot be read."""
    if directory is None:
        return None
    try:
        with os.scandir(directory) as entries:
            return tuple(sorted((entry.name, (stat := entry.stat()).st_size, stat.st_mtime_ns) for entry in entries))
    except OSError:
        return ()


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key for sorting in which numbers inside of names count as numbers."""
    parts = re.split("([0-9]+)", name)
    # Names and numbers take turns, so that a number never meets a name; 01 and 1 still have an order.
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _versions(folder: Path) -> tuple[list[str], bool]:
    """The model directories in a folder, the newest last, and whether all folders in it are some."""
    folders = _folders(folder)
    versions = [entry.name for entry in folders if _is_model(entry)]
    return sorted(versions, key=natural_order), len(versions) == len(folders)


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir()]


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "nothing, the folder is empty") + more
