"""What calibration raises."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Speech, a table or a choice that cannot be used: what was found, what was expected, and the way out."""
