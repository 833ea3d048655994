"""A CUDA GPU through cuda-bindings alone: what the ``cuda`` backend computes on, with wheels and no compiler of C++.

TensorRT's plans have theirs from pycuda (`wavernn_trt.runtime.executors.cuda_device`); what the two share is in
`wavernn_trt.runtime.executors.cuda_parts`.
"""

from __future__ import annotations

import atexit
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.cuda_parts import (
    NO_TIMING,
    NON_BLOCKING,
    WORD,
    CudaGraph,
    Owned,
    PinnedMemory,
    capture,
    launch,
    memory_is_full,
)
from wavernn_trt.runtime.executors.device import Buffer, Event, Graph


@dataclass
class _PrimaryContext:
    """A GPU's primary context, which other libraries in the process work in as well."""

    native: Any
    ended: bool = False
    """Whether the process is ending, which takes everything back."""

    def end(self) -> None:
        self.ended = True


_retained: dict[int, _PrimaryContext] = {}
_retaining = threading.Lock()


class BindingsDevice:
    """One of the GPUs that the driver shows."""

    def __init__(self, ordinal: int = 0) -> None:
        """Retains the GPU's primary context, until the process ends.

        Args:
            ordinal: which of the driver's GPUs.

        Raises:
            VocoderError: the driver refuses, or cuda-bindings does not load.
        """
        try:
            self._context = _primary_context(ordinal)
        except KernelError as error:
            raise VocoderError(f"the GPU does not start: {error}; 'nvidia-smi' shows who uses it") from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device`."""
        driver.call("cuCtxPushCurrent", self._context.native)
        try:
            yield
        finally:
            driver.release("cuCtxPopCurrent")

    def release(self, drop: Callable[[], None]) -> None:
        """See `Device`."""
        if self._context.ended:
            return
        try:
            driver.call("cuCtxPushCurrent", self._context.native)
        except KernelError:
            return
        try:
            drop()
        finally:
            driver.release("cuCtxPopCurrent")

    def stream(self) -> BindingsStream:
        """See `Device`."""
        (native,) = driver.call("cuStreamCreate", NON_BLOCKING)
        return BindingsStream(self, native)

    def event(self) -> BindingsEvent:
        """See `Device`."""
        (native,) = driver.call("cuEventCreate", NO_TIMING)
        return BindingsEvent(self, native)

    def allocate(self, size: int) -> BindingsBuffer:
        """See `Device`."""
        try:
            (native,) = driver.call("cuMemAlloc", size)
        except KernelError as error:
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise memory_is_full(size, *driver.call("cuMemGetInfo")) from None
        return BindingsBuffer(self, native, size)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """See `Device`."""
        kind = np.dtype(dtype)
        (address,) = driver.call("cuMemHostAlloc", math.prod(shape) * kind.itemsize, 0)
        interface = {"shape": shape, "typestr": kind.str, "data": (int(address), False), "version": 3}
        return np.asarray(_PinnedMemory(self, address, interface))


def _primary_context(ordinal: int) -> _PrimaryContext:
    """Retained once in a process: a context that comes and goes would take the loaded kernels with it."""
    with _retaining:
        if ordinal not in _retained:
            (device,) = driver.call("cuDeviceGet", ordinal)
            (native,) = driver.call("cuDevicePrimaryCtxRetain", device)
            _retained[ordinal] = _PrimaryContext(native)
            atexit.register(_retained[ordinal].end)
        return _retained[ordinal]


class _PinnedMemory(PinnedMemory):
    def _drop(self) -> None:
        driver.release("cuMemFreeHost", self.native)


class BindingsBuffer(Owned):
    """See `Buffer`."""

    def __init__(self, device: BindingsDevice, native: Any, size: int) -> None:
        """Takes an allocation."""
        super().__init__(device, native)
        self.address = int(native)
        self.size = size

    def _drop(self) -> None:
        driver.release("cuMemFree", self.native)


class BindingsEvent(Owned):
    """See `Event`."""

    def synchronize(self) -> None:
        """See `Event`."""
        driver.call("cuEventSynchronize", self.native)

    def _drop(self) -> None:
        driver.release("cuEventDestroy", self.native)


class BindingsStream(Owned):
    """See `Stream`."""

    def __init__(self, device: BindingsDevice, native: Any) -> None:
        """Takes a stream."""
        super().__init__(device, native)
        self.handle = int(native)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See `Stream`."""
        driver.call("cuMemcpyHtoDAsync", buffer.address, array.ctypes.data, array.nbytes, self.native)

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        """See `Stream`."""
        driver.call("cuMemcpyDtoHAsync", array.ctypes.data, buffer.address, array.nbytes, self.native)

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        """See `Stream`."""
        driver.call("cuMemsetD32Async", buffer.address + WORD * first, word, count, self.native)

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        """See `Stream`."""
        offset = WORD * first
        driver.copy(source.address + offset, target.address + offset, WORD * count, self.handle)

    def record(self, event: Event) -> None:
        """See `Stream`."""
        driver.call("cuEventRecord", event.native, self.native)

    def wait(self, event: Event) -> None:
        """See `Stream`."""
        driver.call("cuStreamWaitEvent", self.native, event.native, 0)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """See `Stream`."""
        return capture(self._device, self.handle, work)

    def launch(self, graph: Graph) -> None:
        """See `Stream`."""
        launch(graph, self.handle)

    def synchronize(self) -> None:
        """See `Stream`."""
        driver.call("cuStreamSynchronize", self.native)

    def _drop(self) -> None:
        driver.release("cuStreamDestroy", self.native)
