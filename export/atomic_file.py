"""Files that appear whole or not at all, also where several containers write into one folder."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Writes a file in place of any that has its name; its folder is made if need be.

    The temporary file in the same folder has a random name: process ids are equal in containers that share a volume.

    Raises:
        OSError: it cannot be written; a file of that name is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
