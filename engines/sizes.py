"""Numbers of bytes, for people."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def readable_size(size: float) -> str:
    """A number of bytes in the unit that suits it, as in ``298.4 MiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in _UNITS:
        size /= 1024
        if size < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{size:.1f} {unit}"
