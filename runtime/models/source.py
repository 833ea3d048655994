"""Where models are: from a name and a version to a model directory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.export.model_directory import MANIFEST, ModelDirectoryError, file_sha256
from wavernn_trt.runtime.errors import VocoderError

_LISTED = 10
"""Names that an error lists at most."""


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


class ModelFolders:
    """The built-in `Resolver`: ``ROOT/NAME/VERSION/`` or, for a model without versions, ``ROOT/NAME/``.

    The newest version is the last in natural order: ``v10`` comes after ``v9``. Folders whose name begins with a dot,
    as those that an export is still writing, and folders that are no model directories are passed over.
    """

    def __init__(self, root: str | Path) -> None:
        """Takes the folder; what is in it is looked up at each call.

        Args:
            root: holds a folder for each model.

        Raises:
            VocoderError: it is not there.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise VocoderError(f"{self.root} is not a folder; expected one with a folder for each model: NAME/VERSION/")

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
        versions = sorted(_models(folder), key=natural_order)
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
        # Names may come from whoever uses a service: none may lead out of the folder.
        if not name or name.startswith(".") or "\0" in name or Path(name).name != name or "\\" in name:
            raise VocoderError(f"{kind}: found {name!r}, expected the name of a folder in {folder}")
        path = folder / name
        if not os.path.isdir(path):  # Path.is_dir raises for a name too long
            there = [entry.name for entry in _folders(folder)]
            raise VocoderError(f"{kind}: found {name!r}, expected one of {_list(sorted(there, key=natural_order))}")
        return path


def fingerprint(directory: Path) -> str:
    """What tells a model from every other: the SHA-256 of its ``manifest.json``, which holds all other files' hashes.

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


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key for sorting in which numbers inside of names count as numbers."""
    parts = re.split("([0-9]+)", name)
    # Names and numbers take turns, so that a number never meets a name; 01 and 1 still have an order.
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _models(folder: Path) -> list[str]:
    return [entry.name for entry in _folders(folder) if _is_model(entry)]


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir()]


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "nothing, the folder is empty") + more
