"""Atomic writes of files, also where several containers write into one folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Writes a file atomically, replacing an existing one; creates its folder if needed.

    The temporary file in the same folder has a random name, because process ids may be equal in containers that share a
    volume.

    Raises:
        OSError: it cannot be written; names ``path``. An existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    with errors_naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Makes an `OSError` name ``path`` instead of a temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
