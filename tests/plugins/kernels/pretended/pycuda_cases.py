"""Calls of pycuda by the runtime, on the pretended driver; everything is freed in every thread.

../test_pretended_driver.py runs this in a process that finds that driver, where pycuda is installed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

# pycuda links hundreds of the driver's functions, of which the pretended one has those that are called.
sys.setdlopenflags(os.RTLD_LAZY)

from wavernn_trt.runtime.executors.pycuda_device import PycudaDevice

LIBRARY = ctypes.CDLL("libcuda.so.1")


def held() -> tuple[int, int]:
    """What of the device, and how many pinned arrays, nobody gave back."""
    return LIBRARY.pretended_leftovers(), LIBRARY.pretended_pinned()


def work() -> list[Any]:
    """Does something with everything that a lane uses; returns what it was done with, but of arrays only views."""
    device = PycudaDevice()
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


@pytest.mark.parametrize("made_in_a_thread", [False, True])
@pytest.mark.parametrize("dropped_in_a_thread", [False, True])
@pytest.mark.filterwarnings("error::UserWarning")  # as pycuda warns when it cannot free
def test_everything_is_freed_by_any_thread(made_in_a_thread: bool, dropped_in_a_thread: bool) -> None:
    work()  # so that the context is retained by this thread
    assert held() == (0, 0)
    kept: list[Any] = []
    with ThreadPoolExecutor(1) as thread:
        kept += thread.submit(work).result(10) if made_in_a_thread else work()
        assert held() == (6, 2)
        if dropped_in_a_thread:
            thread.submit(kept.clear).result(10)
        else:
            kept.clear()
    assert held() == (0, 0)
