"""How much a scheduler takes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import check_count


@dataclass(frozen=True)
class SchedulerLimits:
    """Bounds of what waits and of what is decoded together."""

    queue: int = 256
    """Utterances that may wait for a slot; a caller who submits one more waits, or gets a `QueueFullError`."""
    conditioning_bytes: int = 2**30
    """Of the conditioning of utterances that wait for a slot or have one. One that takes more is decoded alone. A long
    mel that is conditioned in blocks counts with those that its streams hold at a time, any other with all its rows."""
    lanes: int | None = None
    """Lanes that decode at the same time, each with a thread of its own; ``None`` is what suits the executor."""
    interactive_slots: int | None = None
    """Slots in each lane that batch work does not take. ``None`` is 4 besides the batch's, where the executor leaves
    the number of slots open, and else none: an interactive utterance then has the next slot that becomes free."""
    hang_seconds: float = 60.0
    """A chunk that takes longer is not waited for: the executor is taken to hang."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            VocoderError: a number is not a positive integer, or a time not positive.
        """
        for name in ("queue", "conditioning_bytes", "lanes"):
            check_count(name, getattr(self, name))
        value = self.interactive_slots
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise VocoderError(f"interactive_slots: found {value!r}, expected an integer from 0 on")
        if not (isinstance(self.hang_seconds, int | float) and 0 < self.hang_seconds <= math.inf):
            raise VocoderError(f"hang_seconds: found {self.hang_seconds!r}, expected a positive number")
