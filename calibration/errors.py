"""The error of calibration and quantisation."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Unusable speech, table or choice: the found value, the expected one, and the way out."""


def reason_of(error: Exception) -> str:
    """Returns an exception's text for a report of files that cannot be used."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
