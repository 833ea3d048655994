"""Calls of pycuda by the runtime, on the pretended driver; everything is freed in every thread.

../test_pretended_driver.py runs this in a process that finds that driver, where pycuda is installed.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from device_work import held, work

# pycuda links hundreds of the driver's functions, of which the pretended one has those that are called.
sys.setdlopenflags(os.RTLD_LAZY)

from wavernn_trt.runtime.executors.pycuda_device import PycudaDevice


@pytest.mark.parametrize("made_in_a_thread", [False, True])
@pytest.mark.parametrize("dropped_in_a_thread", [False, True])
@pytest.mark.filterwarnings("error::UserWarning")  # as pycuda warns when it cannot free
def test_everything_is_freed_by_any_thread(made_in_a_thread: bool, dropped_in_a_thread: bool) -> None:
    work(PycudaDevice())  # so that the context is retained by this thread
    assert held() == (0, 0)
    kept: list[Any] = []
    with ThreadPoolExecutor(1) as thread:
        kept += thread.submit(work, PycudaDevice()).result(10) if made_in_a_thread else work(PycudaDevice())
        assert held() == (6, 2)
        if dropped_in_a_thread:
            thread.submit(kept.clear).result(10)
        else:
            kept.clear()
    assert held() == (0, 0)
