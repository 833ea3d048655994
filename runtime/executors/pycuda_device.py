"""A CUDA GPU through pycuda, for TensorRT; graphs, which pycuda does not support, through cuda-bindings.

Both libraries are imported when a device is opened. They use the same driver and, like TensorRT, its primary context.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.bindings_device import (
    NO_TIMING,
    NON_BLOCKING,
    WORD,
    CudaStream,
    Owned,
    PinnedMemory,
    memory_is_full,
)
from wavernn_trt.runtime.executors.device import Buffer, Event

_retained: dict[int, Any] = {}
_retaining = threading.Lock()


class PycudaDevice:
    """A GPU by its ordinal number in the driver."""

    def __init__(self, ordinal: int = 0) -> None:
        """Retains the GPU's primary context.

        Raises:
            VocoderError: the driver reports an error, or a library does not load.
        """
        try:
            self._cuda: Any = import_module("pycuda.driver")
            import_module("cuda.bindings.driver")
        except (ImportError, OSError, RuntimeError) as error:
            raise VocoderError(
                f"pycuda or cuda-bindings is installed and does not load: {error}; install them again, for the CUDA "
                "version in the output of 'nvidia-smi'"
            ) from error
        try:
            self._cuda.init()
            self._context = _primary_context(self._cuda, ordinal)
        except self._cuda.Error as error:
            raise VocoderError(
                f"the GPU does not start: {error}; 'nvidia-smi' lists the programs that use it"
            ) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def release(self, drop: Callable[[], None]) -> None:
        # Without the current context, pycuda frees memory only in the thread that retained the context. In others it
        # warns, and the memory is lost (pycuda 2026.1, ``scoped_context_activation`` in ``cuda.hpp``).
        try:
            self._context.push()
        except self._cuda.Error:
            return
        try:
            drop()
        finally:
            self._context.pop()

    def stream(self) -> PycudaStream:
        return PycudaStream(self, self._cuda.Stream(NON_BLOCKING), self._cuda)

    def event(self) -> PycudaEvent:
        return PycudaEvent(self, self._cuda.Event(NO_TIMING))

    def allocate(self, size: int) -> PycudaBuffer:
        try:
            return PycudaBuffer(self, self._cuda.mem_alloc(size), size)
        except self._cuda.MemoryError:
            raise memory_is_full(size, *self._cuda.mem_get_info()) from None

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        memory = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        return np.asarray(PinnedMemory(self, memory, memory.__array_interface__))


def _primary_context(cuda: Any, ordinal: int) -> Any:
    """The context of a GPU, retained once per process."""
    with _retaining:
        if ordinal not in _retained:
            _retained[ordinal] = cuda.Device(ordinal).retain_primary_context()
            # Without this, pycuda's destructor detaches it as a context made by pycuda, which is an error.
            atexit.register(_retained[ordinal].detach)
        return _retained[ordinal]


class PycudaBuffer(Owned):
    """Device memory."""

    def __init__(self, device: PycudaDevice, allocation: Any, size: int) -> None:
        super().__init__(device, allocation)
        self.address = int(allocation)
        self.size = size


class PycudaEvent(Owned):
    """An event without timing."""

    def synchronize(self) -> None:
        self.native.synchronize()


class PycudaStream(CudaStream):
    """A stream of pycuda."""

    def __init__(self, device: PycudaDevice, native: Any, cuda: Any) -> None:
        super().__init__(device, native, int(native.handle))
        self._cuda = cuda

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self._cuda.memcpy_htod_async(buffer.address, array, self.native)

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        self._cuda.memcpy_dtoh_async(array, buffer.address, self.native)

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        self._cuda.memset_d32_async(buffer.address + WORD * first, word, count, self.native)

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        offset = WORD * first
        self._cuda.memcpy_dtod_async(target.address + offset, source.address + offset, WORD * count, self.native)

    def record(self, event: Event) -> None:
        event.native.record(self.native)

    def wait(self, event: Event) -> None:
        self.native.wait_for_event(event.native)

    def synchronize(self) -> None:
        self.native.synchronize()
