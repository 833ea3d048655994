"""Resolution of model names and versions to model directories, and detection of replaced directories."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from wavernn_trt.export.model_directory import MANIFEST, ModelDirectoryError, file_sha256
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import LoadPrecision

SETTLED_SECONDS = 2.0
"""A file changed more recently is read at every request: timestamps of some file systems have steps of two seconds."""
_REMEMBERED = 1024
"""Maximum number of files and folders whose contents are cached."""
_LISTED = 10
"""Maximum number of names in an error message."""

Content = TypeVar("Content")
DirectoryStamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ModelKey:
    """Identifies a requested model."""

    name: str
    version: str | None = None
    """``None`` is the newest."""
    precision: LoadPrecision | None = None
    """As for `Vocoder.load`."""
    backend: str = "auto"
    """As for `Vocoder.load`."""

    def __str__(self) -> str:
        """The parts without defaults, as in ``alto/2/fp16``."""
        parts = (self.name, self.version, self.precision, None if self.backend == "auto" else self.backend)
        return "/".join(part for part in parts if part is not None)


@dataclass(frozen=True)
class ModelSource:
    """The location of a model."""

    name: str
    version: str | None
    """``None`` if the model has no versions."""
    path: Path
    """The model directory."""


Resolver = Callable[[str, str | None], ModelSource]
"""Finds a model by name and version (``None`` for the newest). The result may have another name, for aliases. Called by
several threads at once; raises `ValueError` for unknown models."""


class ReadOnce(Generic[Content]):
    """Caches the content of files and folders until inode, size or times change; each call makes one ``stat``."""

    def __init__(self, read: Callable[[Path], Content], keep: Callable[[Content], bool] = lambda content: True) -> None:
        """Starts empty.

        Args:
            read: reads a file or folder.
            keep: whether content may be cached.
        """
        self._read = read
        self._keep = keep
        self._known: dict[Path, tuple[tuple[int, ...], Content]] = {}

    def __call__(self, path: Path) -> Content:
        try:
            found = os.stat(path)
        except OSError:
            return self._read(path)  # raises the error
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
        """Removes a file or folder from the cache."""
        self._known.pop(path, None)


class ModelFolders:
    """The built-in `Resolver`: ``ROOT/NAME/VERSION/`` or, for a model without versions, ``ROOT/NAME/``.

    The newest version is the last in natural order: ``v10`` comes after ``v9``. Folders whose name begins with a dot
    (an export in progress) and folders that are not model directories are ignored.

    ``ROOT/NAME`` is scanned again when it has changed, and as long as it has folders that are not model directories
    (a copy in progress). So the next request finds a new version.
    """

    def __init__(self, root: str | Path) -> None:
        """Checks that the folder exists.

        Args:
            root: contains a folder for each model.

        Raises:
            VocoderError: it does not exist.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise VocoderError(f"{self.root} is not a folder; expected one with a folder for each model: NAME/VERSION/")
        self._scan: ReadOnce[tuple[list[str], bool]] = ReadOnce(_versions, keep=lambda found: found[1])

    def __call__(self, name: str, version: str | None = None) -> ModelSource:
        """Finds a model.

        Args:
            name: of a folder in the root.
            version: of a folder in that; ``None`` is the newest.

        Raises:
            VocoderError: it does not exist; the message lists the existing ones.
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
        # Names may come from clients of a service: no name may refer to a place outside of the folder.
        if not name or name.startswith(".") or "\0" in name or Path(name).name != name or "\\" in name:
            raise VocoderError(f"{kind}: found {name!r}, expected the name of a folder in {folder}")
        path = folder / name
        if not os.path.isdir(path):  # unlike Path.is_dir, does not raise for a name that is too long
            names = sorted((entry.name for entry in _folders(folder)), key=natural_order)
            raise VocoderError(f"{kind}: found {name!r}, expected one of {_list(names)}")
        return path


def fingerprint(directory: Path) -> str:
    """SHA-256 of a model directory's ``manifest.json``, which contains the hashes of all other files.

    Raises:
        ModelDirectoryError: the manifest is missing or not readable.
    """
    try:
        return file_sha256(directory / MANIFEST)
    except OSError as error:
        raise ModelDirectoryError(
            f"{directory / MANIFEST}: {error.strerror}, so {directory} is not a model directory. "
            "Make one with: wavernn-trt export CHECKPOINT -o DIR"
        ) from None


def directory_stamp(directory: Path | None) -> DirectoryStamp | None:
    """Names, sizes and times of a directory's files; empty if it is not readable."""
    if directory is None:
        return None
    try:
        with os.scandir(directory) as entries:
            return tuple(sorted((entry.name, (stat := entry.stat()).st_size, stat.st_mtime_ns) for entry in entries))
    except OSError:
        return ()


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key that compares the digits in names as numbers."""
    parts = re.split("([0-9]+)", name)
    # Text and numbers alternate, so a number is never compared with text. The name itself orders 01 and 1.
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _versions(folder: Path) -> tuple[list[str], bool]:
    """Names of the model directories in a folder, the newest last; and whether it has no other folders."""
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
