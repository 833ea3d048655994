"""What backends are compared with: the same weights in somebody else's code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wavernn_trt.scripts.bench.timings import Repeat, Timing


class PeerError(ValueError):
    """A peer that computes something else than the model, and whose speed would say nothing."""


class Peer(Protocol):
    """Generates as somebody else does."""

    @property
    def subject(self) -> str:
        """As the table calls it."""

    @property
    def only(self) -> int | None:
        """The one batch that it takes; ``None`` where any will do."""

    def turn(self, batch: int, seconds: float) -> tuple[Timing, Callable[[], Repeat]]:
        """Warms up.

        Args:
            batch: streams generated together.
            seconds: of speech of each stream in a repeat, at least.

        Returns:
            What a repeat makes, and what makes it.
        """
