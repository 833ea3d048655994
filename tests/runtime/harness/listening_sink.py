"""A scheduler's sink that records what it receives."""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np

from wavernn_trt.runtime.conditioning.windows import FloatArray

PATIENCE = 60.0


class ListeningSink:
    """Has the room that the test gives it, and raises in the method that the test names."""

    def __init__(
        self,
        room: int | None = None,
        *,
        urgent: bool = True,
        raises: Literal["room", "urgent", "write", "finish"] | None = None,
    ) -> None:
        self.left = room
        self.raises = raises
        self.samples: list[FloatArray] = []
        self.errors: list[BaseException | None] = []
        self._urgent = urgent
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return sum(map(len, self.samples))

    def room(self) -> int | None:
        self._fail_in("room")
        return self.left

    def urgent(self) -> bool:
        self._fail_in("urgent")
        return self._urgent

    def write(self, samples: FloatArray) -> None:
        self._fail_in("write")
        with self._changed:
            assert self.left is None or len(samples) <= self.left
            self.left = None if self.left is None else self.left - len(samples)
            self.samples.append(samples)
            self._changed.notify_all()

    def finish(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self._fail_in("finish")

    @property
    def waveform(self) -> FloatArray:
        return np.concatenate([np.zeros(0, np.float32), *self.samples])

    def wait_for(self, samples: int) -> None:
        """Waits until this number of samples was written."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self) >= samples, PATIENCE)

    def _fail_in(self, method: str) -> None:
        if method == self.raises:
            raise OSError(5, f"in {method}")
