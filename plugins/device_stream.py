"""CUDA streams, graphs captured from them, timing with events, and device memory."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver

Work = Callable[[int], None]
"""Enqueues work on the stream with a handle."""


class Fetch(Protocol):
    """Copies arrays back from device memory: some of them, or all."""

    def __call__(self, wanted: Iterable[NDArray[Any]] | None = None) -> None: ...


class DeviceStream:
    """A CUDA stream with two events."""

    def __init__(self) -> None:
        """Creates the stream in the current context.

        Raises:
            KernelError: a call of the driver fails.
        """
        (self._stream,) = driver.call("cuStreamCreate", 1)  # non-blocking: not ordered after the legacy default stream
        self._events = [driver.call("cuEventCreate", 0)[0] for _ in range(2)]
        self._graphs: list[Any] = []
        self.handle = int(self._stream)

    def seconds(self, work: Work) -> float:
        """Returns the time of some work on the device."""
        begin, end = self._events
        driver.call("cuEventRecord", begin, self._stream)
        work(self.handle)
        driver.call("cuEventRecord", end, self._stream)
        driver.call("cuEventSynchronize", end)
        (milliseconds,) = driver.call("cuEventElapsedTime", begin, end)
        return float(milliseconds) / 1e3

    def captured(self, work: Work) -> Work:
        """Captures work as a CUDA graph and returns its launch, for any stream; this stream owns the graph."""
        executable = capture(self.handle, work)
        self._graphs.append(executable)
        return lambda stream: _launch(executable, stream)

    def synchronize(self) -> None:
        """Waits for all work on the stream."""
        driver.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Frees the stream, its events and its graphs."""
        for graph in self._graphs:
            driver.release("cuGraphExecDestroy", graph)
        for event in self._events:
            driver.release("cuEventDestroy", event)
        driver.release("cuStreamDestroy", self._stream)


def capture(handle: int, work: Work) -> Any:
    """Captures work on a stream as an executable graph, which the caller has to destroy.

    Args:
        handle: handle of the stream.
        work: called with the handle.

    Raises:
        KernelError: ``work`` makes a call that a capture does not allow.
    """
    # Thread-local: other threads may allocate memory during the capture.
    mode = driver.constant("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
    with _no_garbage_collection():
        driver.call("cuStreamBeginCapture", handle, mode)
        try:
            work(handle)
        except BaseException:
            driver.release("cuStreamEndCapture", handle)  # a stream cannot be used until its capture has ended
            raise
        (graph,) = driver.call("cuStreamEndCapture", handle)
    try:
        (executable,) = driver.call("cuGraphInstantiate", graph, 0)
    finally:
        driver.release("cuGraphDestroy", graph)
    return executable


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Stops garbage collection: it may free device memory, which a capture on the same thread does not allow."""
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
    """Copies arrays to device memory; yields their addresses, and a function that copies them back."""
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
    """Allocates uninitialised device memory of ``size`` bytes; yields its address."""
    (address,) = driver.call("cuMemAlloc", size)
    try:
        yield int(address)
    finally:
        driver.release("cuMemFree", address)
