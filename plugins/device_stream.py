"""Device memory, a stream, graphs of its work, and how long that takes by CUDA's own events."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver

Work = Callable[[int], None]
"""Puts something on the stream of a handle."""


class Fetch(Protocol):
    """Copies back from device memory."""

    def __call__(self, wanted: Iterable[NDArray[Any]] | None = None) -> None:
        """Into those of the arrays, or into all."""


class DeviceStream:
    """A stream of its own, with two events."""

    def __init__(self) -> None:
        """Makes it in the current context.

        Raises:
            KernelError: the driver refuses.
        """
        (self._stream,) = driver.call("cuStreamCreate", 1)  # non-blocking: not ordered after the legacy default stream
        self._events = [driver.call("cuEventCreate", 0)[0] for _ in range(2)]
        self._graphs: list[Any] = []
        self.handle = int(self._stream)

    def seconds(self, work: Work) -> float:
        """How long something takes on the device, from the first of it to its end."""
        begin, end = self._events
        driver.call("cuEventRecord", begin, self._stream)
        work(self.handle)
        driver.call("cuEventRecord", end, self._stream)
        driver.call("cuEventSynchronize", end)
        (milliseconds,) = driver.call("cuEventElapsedTime", begin, end)
        return float(milliseconds) / 1e3

    def captured(self, work: Work) -> Work:
        """The same as a CUDA graph, launched on whatever stream; it lives as long as this stream."""
        executable = capture(self.handle, work)
        self._graphs.append(executable)
        return lambda stream: _launch(executable, stream)

    def synchronize(self) -> None:
        """Waits for all that is on it."""
        driver.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Gives everything back."""
        for graph in self._graphs:
            driver.release("cuGraphExecDestroy", graph)
        for event in self._events:
            driver.release("cuEventDestroy", event)
        driver.release("cuStreamDestroy", self._stream)


def capture(handle: int, work: Work) -> Any:
    """Keeps what ``work`` gives to a stream as an executable graph, which is the caller's to give back.

    Args:
        handle: the stream's.
        work: what to keep; is given the handle.

    Raises:
        KernelError: the driver refuses what was called meanwhile.
    """
    # Other threads may allocate meanwhile: only this one's calls are held to what a capture allows.
    mode = driver.constant("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
    with _no_garbage_collection():
        driver.call("cuStreamBeginCapture", handle, mode)
        try:
            work(handle)
        except BaseException:
            driver.release("cuStreamEndCapture", handle)  # the stream is useless until it is ended
            raise
        (graph,) = driver.call("cuStreamEndCapture", handle)
    try:
        (executable,) = driver.call("cuGraphInstantiate", graph, 0)
    finally:
        driver.release("cuGraphDestroy", graph)
    return executable


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Leaves what somebody has left where it is: to free device memory in a thread that captures spoils the capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _launch(executable: Any, stream: int) -> None:
    driver.call("cuGraphLaunch", executable, stream)


@contextlib.contextmanager
def on_device(arrays: Iterable[NDArray[Any]]) -> Iterator[tuple[list[int], Fetch]]:
    """Copies of arrays in device memory: their addresses, and what copies them back into the arrays."""
    kept = list(arrays)
    allocated: list[Any] = []
    try:
        for array in kept:
            contiguous = np.ascontiguousarray(array)
            (address,) = driver.call("cuMemAlloc", max(contiguous.nbytes, 1))
            allocated.append(address)
            driver.call("cuMemcpyHtoD", address, contiguous.ctypes.data, contiguous.nbytes)

        def fetch(wanted: Iterable[NDArray[Any]] | None = None) -> None:
            chosen = None if wanted is None else {id(array) for array in wanted}
            for array, address in zip(kept, allocated, strict=True):
                if chosen is None or id(array) in chosen:
                    driver.call("cuMemcpyDtoH", array.ctypes.data, address, array.nbytes)

        driver.call("cuCtxSynchronize")
        yield [int(address) for address in allocated], fetch
    finally:
        for address in allocated:
            driver.release("cuMemFree", address)


@contextlib.contextmanager
def scratch(size: int) -> Iterator[int]:
    """The address of so many bytes of device memory, with anything in them."""
    (address,) = driver.call("cuMemAlloc", size)
    try:
        yield int(address)
    finally:
        driver.release("cuMemFree", address)
