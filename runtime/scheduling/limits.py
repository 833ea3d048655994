"""`SchedulerLimits`: bounds of a scheduler."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import check_count


@dataclass(frozen=True)
class SchedulerLimits:
    """Bounds of the queue, of conditioning memory and of parallel decoding."""

    queue: int = 256
    """Maximum number of utterances waiting for a slot; a further submission waits, or raises a `QueueFullError`."""
    conditioning_bytes: int = 2**30
    """Memory for the conditioning of utterances that wait for a slot or have one. An utterance that needs more is
    decoded alone. A long mel conditioned in blocks counts with the blocks held at a time, any other with all rows."""
    lanes: int | None = None
    """Maximum number of lanes that decode in parallel, each in its own thread; ``None`` uses the executor's number."""
    interactive_slots: int | None = None
    """Slots in each lane reserved for interactive utterances. ``None`` adds 4 to the batch slots if the executor's
    number of slots is open, else it reserves none: an interactive utterance then gets the next free slot."""
    hang_seconds: float = 60.0
    """Timeout of a chunk; the executor is considered hung after it."""

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
