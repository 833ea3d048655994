"""What calibration raises."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Speech, a table or a choice that cannot be used: what was found, what was expected, and the way out."""


def reason_of(error: Exception) -> str:
    """The reason why a file cannot be used, for a report where the others go on."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
