"""A conditioner's plan on a device: one mel at a time, there and back."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.executors.device import Buffer, BuiltPlan, Device
from wavernn_trt.runtime.executors.protocol import FloatArray


class DeviceConditioner:
    """Conditions mels; calls from several threads wait for each other."""

    def __init__(self, device: Device, plan: BuiltPlan, bins: int, columns: int, margin: int) -> None:
        """Opens a context; memory is allocated as mels need it.

        Args:
            device: where the plan is.
            plan: a conditioner's.
            bins: of a mel.
            columns: of the conditioning.
            margin: rows of conditioning before the first frame, and behind the last.
        """
        self._device = device
        self._plan = plan
        self._margin = margin
        self._bins, self._columns = bins, columns
        self._capacity = 0
        self._host: dict[str, NDArray[Any]] = {}
        self._buffers: dict[str, Buffer] = {}
        self._warm = False
        self._lock = threading.Lock()
        with device.current():
            self._stream = device.stream()
            self._context = plan.context(one_shape=False)

    def __call__(self, mel: FloatArray) -> FloatArray:
        """Mel [n_mels, N] -> conditioning [N + 2 * margin, columns]; N lies inside the plan's profile."""
        frames = mel.shape[1]
        with self._lock, self._device.current():
            if frames > self._capacity:
                self._reserve(frames)
            given = self._host["mel"][: mel.size]
            given.reshape(mel.shape)[...] = mel
            rows = self._host["conditioning"][: self._rows(frames) * self._columns]
            self._context.set_shape("mel", (1, *mel.shape))
            self._stream.copy_in(self._buffers["mel"], given)
            self._context.enqueue(self._stream)
            self._stream.copy_out(rows, self._buffers["conditioning"])
            self._stream.synchronize()
            if not self._warm:
                self._plan.warmed_up()
                self._warm = True
            return rows.reshape(-1, self._columns).copy()

    def _rows(self, frames: int) -> int:
        return frames + 2 * self._margin

    def _reserve(self, frames: int) -> None:
        """Makes room for a mel, and for others not much longer."""
        assert self._plan.manifest.frames is not None
        capacity = min(1 << (frames - 1).bit_length(), self._plan.manifest.frames[2])
        sizes = {"mel": capacity * self._bins, "conditioning": self._rows(capacity) * self._columns}
        self._capacity = 0
        self._buffers.clear()  # before the larger ones are asked for
        for name, size in sizes.items():
            self._host[name] = self._device.pinned((size,), "float32")
            self._buffers[name] = self._device.allocate(size * np.dtype(np.float32).itemsize)
            self._context.bind(name, self._buffers[name])
        self._capacity = capacity
