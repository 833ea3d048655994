"""A CUDA GPU: memory, streams and events through pycuda, and the graphs that it lacks through cuda-bindings.

Only who opens a device imports this module's libraries; both find the same driver and share the primary context, which
TensorRT works in as well.
"""

from __future__ import annotations

import atexit
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

    def stream(self) -> CudaStream:
        """See `Device`."""
        return CudaStream(self._cuda, self._bindings)

    def event(self) -> CudaEvent:
        """See `Device`."""
        return CudaEvent(self._cuda.Event(_NO_TIMING))

    def allocate(self, size: int) -> CudaBuffer:
        """See `Device`."""
        try:
            return CudaBuffer(self._cuda.mem_alloc(size), size)
        except self._cuda.MemoryError:
            free, total = self._cuda.mem_get_info()
            raise VocoderError(
                f"the GPU's memory is full: {size >> 20} MiB needed, {free >> 20} of {total >> 20} MiB free; end what "
                "else runs there ('nvidia-smi' shows it), or use an engine of a smaller --batch"
            ) from None

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """See `Device`."""
        return self._cuda.pagelocked_empty(shape, np.dtype(dtype))  # type: ignore[no-any-return]


def _primary_context(cuda: Any, ordinal: int) -> Any:
    """Retained once in a process, until its end."""
    if ordinal not in _retained:
        _retained[ordinal] = cuda.Device(ordinal).retain_primary_context()
        # Left to its destructor, pycuda would detach it like a context that it had made, which the driver refuses.
        atexit.register(_retained[ordinal].detach)
    return _retained[ordinal]


class CudaBuffer:
    """See `Buffer`."""

    def __init__(self, allocation: Any, size: int) -> None:
        """Takes pycuda's allocation, which frees itself."""
        self._allocation = allocation
        self.address = int(allocation)
        self.size = size


class CudaEvent:
    """See `Event`."""

    def __init__(self, native: Any) -> None:
        """Takes pycuda's event."""
        self.native = native

    def synchronize(self) -> None:
        """See `Event`."""
        self.native.synchronize()


class CudaStream:
    """See `Stream`."""

    def __init__(self, cuda: Any, bindings: Any) -> None:
        """Makes a stream in the current context."""
        self._cuda = cuda
        self._bindings = bindings
        self._stream = cuda.Stream(_NON_BLOCKING)
        self.handle = int(self._stream.handle)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See `Stream`."""
        self._cuda.memcpy_htod_async(buffer.address, array, self._stream)

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        """See `Stream`."""
        self._cuda.memcpy_dtoh_async(array, buffer.address, self._stream)

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        """See `Stream`."""
        self._cuda.memset_d32_async(buffer.address + _WORD * first, word, count, self._stream)

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        """See `Stream`."""
        offset = _WORD * first
        self._cuda.memcpy_dtod_async(target.address + offset, source.address + offset, _WORD * count, self._stream)

    def record(self, event: Event) -> None:
        """See `Stream`."""
        event.native.record(self._stream)

    def wait(self, event: Event) -> None:
        """See `Stream`."""
        self._stream.wait_for_event(event.native)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """See `Stream`."""
        # Other threads may allocate meanwhile: only this one's calls are held to what a capture allows.
        mode = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self.handle, mode)
        try:
            work()
        except BaseException:
            self._bindings.cuStreamEndCapture(self.handle)  # the stream is useless until it is ended
            raise
        graph = self._call("cuStreamEndCapture", self.handle)
        try:
            return CudaGraph(self._bindings, self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Graph) -> None:
        """See `Stream`."""
        assert isinstance(graph, CudaGraph)
        self._call("cuGraphLaunch", graph.native, self.handle)

    def synchronize(self) -> None:
        """See `Stream`."""
        self._stream.synchronize()

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *results = getattr(self._bindings, function)(*arguments)
        if int(code):
            raise RuntimeError(f"{function} gives error {int(code)} ({code.name})")
        return results[0] if results else None


class CudaGraph:
    """See `Graph`."""

    def __init__(self, bindings: Any, native: Any) -> None:
        """Takes an executable graph."""
        self._bindings = bindings
        self.native = native

    def __del__(self) -> None:
        """Gives it back; a graph under way ends first."""
        self._bindings.cuGraphExecDestroy(self.native)
