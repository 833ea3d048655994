"""The error that reading a checkpoint ends in, and names in its message."""

from __future__ import annotations


def printable(name: object, longest: int = 80) -> str:
    """A name out of a file for a message: cut, and with ``?`` for what a terminal could take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(name)[:longest])


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what was found, what was expected, and the way out."""
