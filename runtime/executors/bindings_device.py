"""A CUDA GPU through cuda-bindings, for the ``cuda`` backend: wheels only, no C++ compiler.

TensorRT's plans use pycuda (`wavernn_trt.runtime.executors.pycuda_device`). Both modules share the classes here that
free objects with the device current, the graphs, and the error for full memory.
"""

from __future__ import annotations

import atexit
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import device_stream, driver
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import Buffer, Device, Event, Graph

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: independent of the legacy default stream, which other libraries in the process may use."""
NO_TIMING = 2
"""CU_EVENT_DISABLE_TIMING: events that only order work are cheaper."""
WORD = 4
"""Bytes of a 32-bit word."""


class Owned:
    """Owns an object of a library, and frees it with the device current, in any thread."""

    def __init__(self, device: Device, native: Any, free: str | None = None) -> None:
        """Takes ownership of ``native``; ``free`` is the driver's call that frees it, if it has no destructor."""
        self._device = device
        self._free = free
        self.native = native

    def __del__(self) -> None:
        self._device.release(self._drop)

    def _drop(self) -> None:
        if self._free is None:
            self.native = None
        else:
            driver.release(self._free, self.native)


class PinnedMemory(Owned):
    """Pinned host memory with numpy's array interface; the base of an array and all of its views, which keep it."""

    def __init__(self, device: Device, native: Any, interface: dict[str, Any], free: str | None = None) -> None:
        super().__init__(device, native, free)
        self.__array_interface__ = interface


class CudaGraph(Owned):
    """A captured graph."""


class CudaStream(Owned):
    """Base of the streams of both libraries: graphs, which pycuda does not support."""

    def __init__(self, device: Device, native: Any, handle: int, free: str | None = None) -> None:
        super().__init__(device, native, free)
        self.handle = handle

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        return CudaGraph(self._device, device_stream.capture(self.handle, lambda _: work()), "cuGraphExecDestroy")

    def launch(self, graph: Graph) -> None:
        assert isinstance(graph, CudaGraph)
        driver.call("cuGraphLaunch", graph.native, self.handle)


def memory_is_full(size: int, free: int, total: int) -> VocoderError:
    """The error for full device memory; sizes in bytes."""
    return VocoderError(
        f"the GPU's memory is full: {size >> 20} MiB needed, {free >> 20} of {total >> 20} MiB free; end other "
        "programs on it ('nvidia-smi' lists them), or decode fewer streams together (--batch)"
    )


_retained: dict[int, Any] = {}
_retaining = threading.Lock()
_process_ends = threading.Event()
"""Set when the process ends; the driver then frees everything."""


class BindingsDevice:
    """A GPU by its ordinal number in the driver."""

    def __init__(self, ordinal: int = 0) -> None:
        """Retains the GPU's primary context until the process ends.

        Raises:
            VocoderError: the driver reports an error, or cuda-bindings does not load.
        """
        try:
            self._context = _primary_context(ordinal)
        except KernelError as error:
            raise VocoderError(
                f"the GPU does not start: {error}; 'nvidia-smi' lists the programs that use it"
            ) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        driver.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            driver.release("cuCtxPopCurrent")

    def release(self, drop: Callable[[], None]) -> None:
        if _process_ends.is_set():
            return
        try:
            driver.call("cuCtxPushCurrent", self._context)
        except KernelError:
            return
        try:
            drop()
        finally:
            driver.release("cuCtxPopCurrent")

    def stream(self) -> BindingsStream:
        (native,) = driver.call("cuStreamCreate", NON_BLOCKING)
        return BindingsStream(self, native, int(native), "cuStreamDestroy")

    def event(self) -> BindingsEvent:
        (native,) = driver.call("cuEventCreate", NO_TIMING)
        return BindingsEvent(self, native, "cuEventDestroy")

    def allocate(self, size: int) -> BindingsBuffer:
        try:
            (native,) = driver.call("cuMemAlloc", size)
        except KernelError as error:
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise memory_is_full(size, *driver.call("cuMemGetInfo")) from None
        return BindingsBuffer(self, native, size)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        kind = np.dtype(dtype)
        (address,) = driver.call("cuMemHostAlloc", math.prod(shape) * kind.itemsize, 0)
        interface = {"shape": shape, "typestr": kind.str, "data": (int(address), False), "version": 3}
        return np.asarray(PinnedMemory(self, address, interface, "cuMemFreeHost"))


def _primary_context(ordinal: int) -> Any:
    """The context of a GPU, retained once per process, because its release would unload the kernels."""
    with _retaining:
        if ordinal not in _retained:
            (device,) = driver.call("cuDeviceGet", ordinal)
            (_retained[ordinal],) = driver.call("cuDevicePrimaryCtxRetain", device)
            atexit.register(_process_ends.set)
        return _retained[ordinal]


class BindingsBuffer(Owned):
    """Device memory."""

    def __init__(self, device: BindingsDevice, native: Any, size: int) -> None:
        super().__init__(device, native, "cuMemFree")
        self.address = int(native)
        self.size = size


class BindingsEvent(Owned):
    """An event without timing."""

    def synchronize(self) -> None:
        driver.call("cuEventSynchronize", self.native)


class BindingsStream(CudaStream):
    """A stream of the driver."""

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        driver.call("cuMemcpyHtoDAsync", buffer.address, array.ctypes.data, array.nbytes, self.native)

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        driver.call("cuMemcpyDtoHAsync", array.ctypes.data, buffer.address, array.nbytes, self.native)

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        driver.call("cuMemsetD32Async", buffer.address + WORD * first, word, count, self.native)

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        offset = WORD * first
        driver.copy(source.address + offset, target.address + offset, WORD * count, self.handle)

    def record(self, event: Event) -> None:
        driver.call("cuEventRecord", event.native, self.native)

    def wait(self, event: Event) -> None:
        driver.call("cuStreamWaitEvent", self.native, event.native, 0)

    def synchronize(self) -> None:
        driver.call("cuStreamSynchronize", self.native)
