"""Lanes that are used again: what one has allocated and captured is there for whoever opens the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from wavernn_trt.runtime.executors.device_lane import DeviceLane


class LanePool:
    """Gives each user a lane of its own, from any thread."""

    def __init__(self, open_lane: Callable[[], DeviceLane]) -> None:
        """Opens none yet.

        Args:
            open_lane: makes a lane, where all that there are are in use.
        """
        self._open = open_lane
        self.idle: list[DeviceLane] = []
        """Those that nobody uses. Threads take and add by single operations, which a list does whole."""

    @contextmanager
    def lane(self) -> Iterator[DeviceLane]:
        """A lane, for as long as the context lasts.

        Raises:
            VocoderError: the device has no memory for another.
        """
        try:
            lane = self.idle.pop()
        except IndexError:
            lane = self._open()
        try:
            yield lane
        except BaseException:
            # Where the device is what failed, the lane does not drain either: it is not used again, and the first error
            # is the one that says why.
            with suppress(Exception):
                self._give_back(lane)
            raise
        self._give_back(lane)

    def _give_back(self, lane: DeviceLane) -> None:
        lane.drain()
        self.idle.append(lane)
