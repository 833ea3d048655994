"""Objects of a CUDA device are freed where its context is current, since pycuda leaks them elsewhere.

A replacement of pycuda records where each object was freed. The real pycuda is tested in
tests/plugins/kernels/pretended/pycuda_cases.py, if it is installed, and in test_tensorrt_executor.py on a GPU.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.runtime.executors import pycuda_device
from wavernn_trt.runtime.executors.pycuda_device import PycudaDevice


@dataclass
class Context:
    """A context; each thread has its own stack, as in CUDA."""

    retained: int = 0
    ended: bool = False
    threads: threading.local = field(default_factory=threading.local)

    def depth(self) -> int:
        return getattr(self.threads, "depth", 0)

    def push(self) -> None:
        if self.ended:
            raise Pycuda.Error("the context is destroyed")
        self.threads.depth = self.depth() + 1

    def pop(self) -> None:
        self.threads.depth -= 1

    def detach(self) -> None:
        self.ended = True

    def retain_primary_context(self) -> Context:
        self.retained += 1
        return self


class Thing:
    """A stream, an event or an allocation; records whether the context is current when it is freed."""

    def __init__(self, pycuda: Pycuda) -> None:
        self.handle = 7
        self._pycuda = pycuda

    def __int__(self) -> int:
        return self.handle

    def __del__(self) -> None:
        self._pycuda.ends.append(self._pycuda.context.depth() > 0)


class Pycuda:
    """The part of ``pycuda.driver`` and ``cuda.bindings.driver`` that creates objects."""

    class Error(Exception):
        pass

    MemoryError = Error

    class CUresult:
        CUDA_SUCCESS = 0

    class CUstreamCaptureMode:
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self) -> None:
        self.context = Context()
        self.ends: list[bool] = []

    def init(self) -> None:
        pass

    def Device(self, ordinal: int) -> Context:
        return self.context

    def Stream(self, flags: int) -> Thing:
        return Thing(self)

    Event = Stream
    mem_alloc = Stream

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        class Base(Thing):
            memory = np.zeros(shape, dtype)
            __array_interface__ = memory.__array_interface__

        return np.asarray(Base(self))

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        return (0,)

    def cuStreamEndCapture(self, stream: int) -> tuple[int, int]:
        return 0, 8

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        return 0, 9

    def cuGraphDestroy(self, graph: int) -> tuple[int]:
        return (0,)

    def cuGraphExecDestroy(self, graph: int) -> None:
        self.ends.append(self.context.depth() > 0)


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> Pycuda:
    replacement = Pycuda()
    monkeypatch.setattr(pycuda_device, "import_module", lambda name: replacement)
    monkeypatch.setattr(driver, "_initialised", replacement)
    monkeypatch.setattr(pycuda_device, "_retained", {})
    monkeypatch.setattr(pycuda_device.atexit, "register", lambda detach: None)
    return replacement


MAKE: dict[str, Callable[[PycudaDevice], Any]] = {
    "stream": lambda device: device.stream(),
    "event": lambda device: device.event(),
    "memory": lambda device: device.allocate(8),
    "pinned array": lambda device: device.pinned((2, 3), "float32"),
    "view of a pinned array": lambda device: device.pinned((2, 3), "float32").reshape(-1)[1:],
    "graph": lambda device: device.stream().capture(lambda: None),
}


@pytest.mark.parametrize("what", MAKE)
@pytest.mark.parametrize("in_a_thread", [False, True])
def test_every_object_is_freed_where_its_context_is_current(pycuda: Pycuda, what: str, in_a_thread: bool) -> None:
    device = PycudaDevice()
    with device.current():
        kept = [MAKE[what](device)]
    pycuda.ends.clear()  # the graph's stream
    if in_a_thread:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(kept.clear).result(10)
    else:
        kept.clear()
    assert pycuda.ends == [True]
    assert pycuda.context.depth() == 0


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_objects_that_outlive_the_context_are_not_freed_again(pycuda: Pycuda) -> None:
    device = PycudaDevice()
    with device.current():
        kept = [make(device) for make in MAKE.values()]
    pycuda.context.detach()
    pycuda.ends.clear()
    kept.clear()
    assert pycuda.ends == [False] * 5  # nothing is called for the graph


def test_nothing_is_freed_by_garbage_collection_while_a_graph_is_captured(pycuda: Pycuda) -> None:
    device = PycudaDevice()
    collecting: list[bool] = []
    with device.current():
        stream = device.stream()
        stream.capture(lambda: collecting.append(gc.isenabled()))
        with pytest.raises(ZeroDivisionError):
            stream.capture(lambda: collecting.append(bool(1 // 0)))
    assert collecting == [False]
    assert gc.isenabled()


def test_threads_that_open_the_device_at_once_retain_it_once(pycuda: Pycuda) -> None:
    barrier = threading.Barrier(4)

    def open_device() -> None:
        barrier.wait(10)
        PycudaDevice()

    with ThreadPoolExecutor(4) as threads:
        for opened in [threads.submit(open_device) for _ in range(4)]:
            opened.result(10)
    assert pycuda.context.retained == 1
