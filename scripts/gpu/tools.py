"""Finds programs of the CUDA toolkit, and writes files whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

_TOOLKIT = Path("/usr/local/cuda/bin")


def find_tool(name: str) -> Path | None:
    """Path of a program on PATH, else in the CUDA toolkit's usual folder."""
    path = shutil.which(name) or shutil.which(name, path=str(_TOOLKIT))
    return Path(path) if path else None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name in the same folder and renames it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.close()
            Path(file.name).chmod(0o644)  # temporary files are their owner's alone
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
