"""A CUDA GPU: memory, streams and events through pycuda, and the graphs that it lacks through cuda-bindings.

Only who opens a device imports this module's libraries; both find the same driver and share the primary context, which
TensorRT works in as well.
"""

from __future__ import annotations

import atexit
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import Buffer, Event, Graph

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: independent of the legacy default stream, which other libraries in the process may use."""
_NO_TIMING = 2
"""CU_EVENT_DISABLE_TIMING: events are for order alone, and cheaper so."""
_WORD = 4
"""Bytes of a 32-bit word."""

_retained: dict[int, Any] = {}
_retaining = threading.Lock()


class CudaDevice:
    """One of the GPUs that the driver shows."""

    def __init__(self, ordinal: int = 0) -> None:
        """Retains the GPU's primary context.

        Args:
            ordinal: which of the driver's GPUs.

        Raises:
            VocoderError: the driver refuses, or a library does not load.
        """
        try:
            self._cuda: Any = import_module("pycuda.driver")
            self._bindings: Any = import_module("cuda.bindings.driver")
        except (ImportError, OSError, RuntimeError) as error:
            raise VocoderError(
                f"pycuda or cuda-bindings is installed and does not load: {error}; install them again, for the CUDA "
                "version that 'nvidia-smi' shows"
            ) from error
        try:
            self._cuda.init()
            self._context = _primary_context(self._cuda, ordinal)
        except self._cuda.Error as error:
            raise VocoderError(f"the GPU does not start: {error}; 'nvidia-smi' shows who uses it") from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device`."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def release(self, drop: Callable[[], None]) -> None:
        """See `Device`."""
        try:
            self._context.push()
        except self._cuda.Error:
            return
        try:
            drop()
        finally:
            self._context.pop()

    def stream(self) -> CudaStream:
        """See `Device`."""
        return CudaStream(self, self._cuda.Stream(_NON_BLOCKING), self._cuda, self._bindings)

    def event(self) -> CudaEvent:
        """See `Device`."""
        return CudaEvent(self, self._cuda.Event(_NO_TIMING))

    def allocate(self, size: int) -> CudaBuffer:
        """See `Device`."""
        try:
            return CudaBuffer(self, self._cuda.mem_alloc(size), size)
        except self._cuda.MemoryError:
            free, total = self._cuda.mem_get_info()
            raise VocoderError(
                f"the GPU's memory is full: {size >> 20} MiB needed, {free >> 20} of {total >> 20} MiB free; end what "
                "else runs there ('nvidia-smi' shows it), or use an engine of a smaller --batch"
            ) from None

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """See `Device`."""
        return np.asarray(_PinnedMemory(self, self._cuda.pagelocked_empty(shape, np.dtype(dtype))))


def _primary_context(cuda: Any, ordinal: int) -> Any:
    """Retained once in a process, until its end."""
    with _retaining:
        if ordinal not in _retained:
            _retained[ordinal] = cuda.Device(ordinal).retain_primary_context()
            # Left to its destructor, pycuda would detach it like a context that it had made, which the driver refuses.
            atexit.register(_retained[ordinal].detach)
        return _retained[ordinal]


class _Owner:
    """Holds what pycuda made, and lets go of it with the device current.

    Where the context is not current, pycuda frees in the thread that retained it only; in any other it warns, and the
    memory is lost until the process ends (pycuda 2026.1, ``scoped_context_activation`` in ``cuda.hpp``).
    """

    def __init__(self, device: CudaDevice, native: Any) -> None:
        self._device = device
        self.native = native

    def __del__(self) -> None:
        self._device.release(self._drop)

    def _drop(self) -> None:
        self.native = None


class _PinnedMemory(_Owner):
    """Under an array and all views of it, as their base."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.native.__array_interface__  # type: ignore[no-any-return]


class CudaBuffer(_Owner):
    """See `Buffer`."""

    def __init__(self, device: CudaDevice, allocation: Any, size: int) -> None:
        """Takes pycuda's allocation."""
        super().__init__(device, allocation)
        self.address = int(allocation)
        self.size = size


class CudaEvent(_Owner):
    """See `Event`."""

    def synchronize(self) -> None:
        """See `Event`."""
        self.native.synchronize()


class CudaStream(_Owner):
    """See `Stream`."""

    def __init__(self, device: CudaDevice, native: Any, cuda: Any, bindings: Any) -> None:
        """Takes pycuda's stream."""
        super().__init__(device, native)
        self._cuda = cuda
        self._bindings = bindings
        self.handle = int(self.native.handle)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See `Stream`."""
        self._cuda.memcpy_htod_async(buffer.address, array, self.native)

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        """See `Stream`."""
        self._cuda.memcpy_dtoh_async(array, buffer.address, self.native)

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        """See `Stream`."""
        self._cuda.memset_d32_async(buffer.address + _WORD * first, word, count, self.native)

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        """See `Stream`."""
        offset = _WORD * first
        self._cuda.memcpy_dtod_async(target.address + offset, source.address + offset, _WORD * count, self.native)

    def record(self, event: Event) -> None:
        """See `Stream`."""
        event.native.record(self.native)

    def wait(self, event: Event) -> None:
        """See `Stream`."""
        self.native.wait_for_event(event.native)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """See `Stream`."""
        # Other threads may allocate meanwhile: only this one's calls are held to what a capture allows.
        mode = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with _no_garbage_collection():
            self._call("cuStreamBeginCapture", self.handle, mode)
            try:
                work()
            except BaseException:
                self._bindings.cuStreamEndCapture(self.handle)  # the stream is useless until it is ended
                raise
            graph = self._call("cuStreamEndCapture", self.handle)
        try:
            return CudaGraph(self._device, self._call("cuGraphInstantiate", graph, 0), self._bindings)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Graph) -> None:
        """See `Stream`."""
        assert isinstance(graph, CudaGraph)
        self._call("cuGraphLaunch", graph.native, self.handle)

    def synchronize(self) -> None:
        """See `Stream`."""
        self.native.synchronize()

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *results = getattr(self._bindings, function)(*arguments)
        if int(code):
            raise RuntimeError(f"{function} gives error {int(code)} ({code.name})")
        return results[0] if results else None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Leaves what a failed lane has left where it is: to free memory in a thread that captures spoils the capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CudaGraph(_Owner):
    """See `Graph`."""

    def __init__(self, device: CudaDevice, native: Any, bindings: Any) -> None:
        """Takes an executable graph."""
        super().__init__(device, native)
        self._bindings = bindings

    def _drop(self) -> None:
        """Gives it back; a graph under way ends first."""
        self._bindings.cuGraphExecDestroy(self.native)
