"""The error of reading a checkpoint, and safe names for its message."""

from __future__ import annotations

from collections.abc import Sequence


def printable(name: object, longest: int = 80) -> str:
    """Returns a name from a file for a message: shortened, with ``?`` for characters that are not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(name)[:longest])


def listed(names: Sequence[str], most: int) -> str:
    """Returns the first ``most`` names with commas, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class CheckpointError(ValueError):
    """An unusable checkpoint: the found and the expected value, and the way out."""
