"""The error that reading a checkpoint ends in."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what was found, what was expected, and the way out."""
