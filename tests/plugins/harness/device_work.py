"""Work with everything that a lane uses of a device, for tests on the pretended driver."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np

LIBRARY = ctypes.CDLL("libcuda.so.1")


def held() -> tuple[int, int]:
    """Objects on the device, and pinned arrays, that are not freed."""
    gc.collect()
    return LIBRARY.pretended_leftovers(), LIBRARY.pretended_pinned()


def work(device: Any) -> list[Any]:
    """Copies, fills, launches and waits; returns the objects that it used, and views of its pinned arrays."""
    with device.current():
        stream, other, event = device.stream(), device.stream(), device.event()
        first, second = device.allocate(64), device.allocate(64)
        given, taken = device.pinned((4, 4), "int32"), device.pinned((4, 4), "int32")
        given[...] = np.arange(16).reshape(4, 4)
        graph = stream.capture(lambda: stream.fill(first, 99, 8, 3))
        stream.copy_in(first, given)
        stream.fill(second, 5, 0, 16)
        stream.launch(graph)
        stream.copy(second, first, 7, 5)
        stream.record(event)
        other.wait(event)
        other.copy_out(taken, second)
        other.synchronize()
    assert taken.reshape(-1).tolist() == [*[5] * 7, 7, 99, 99, 99, 11, *[5] * 4]
    return [stream, other, event, first, second, graph, given[1:], taken.reshape(-1)[2:]]
