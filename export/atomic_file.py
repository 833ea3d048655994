"""Files that appear whole or not at all, also where several containers write into one folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Writes a file in place of any that has its name; its folder is made if need be.

    The temporary file in the same folder has a random name: process ids are equal in containers that share a volume.

    Raises:
        OSError: it cannot be written, with ``path`` as the file's name; a file of that name is left as it was.
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
    """Errors of the operating system name the file that was asked for, not a temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
