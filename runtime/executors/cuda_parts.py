"""What both CUDA devices are made of: things that end where the device is current, graphs, and words for full memory.

`wavernn_trt.runtime.executors.cuda_device` has its memory and streams from pycuda,
`wavernn_trt.runtime.executors.bindings_device` from cuda-bindings. Graphs come from cuda-bindings in both, since pycuda
has none. Which of the two made a stream does not matter to the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wavernn_trt.plugins import device_stream, driver
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import Device

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: independent of the legacy default stream, which other libraries in the process may use."""
NO_TIMING = 2
"""CU_EVENT_DISABLE_TIMING: events are for order alone, and cheaper so."""
WORD = 4
"""Bytes of a 32-bit word."""


class Owned:
    """Holds what a library made, and lets go of it with the device current, whichever thread drops it last."""

    def __init__(self, device: Device, native: Any) -> None:
        """Takes what was made.

        Args:
            device: must be current for the end.
            native: as its library knows it.
        """
        self._device = device
        self.native = native

    def __del__(self) -> None:
        """See `Device.release`."""
        self._device.release(self._drop)

    def _drop(self) -> None:
        self.native = None


class PinnedMemory(Owned):
    """Under an array and all views of it, as their base: numpy finds in the interface where its memory is."""

    def __init__(self, device: Device, native: Any, interface: dict[str, Any]) -> None:
        """Takes memory and what `numpy's array interface` says of it."""
        super().__init__(device, native)
        self.__array_interface__ = interface


class CudaGraph(Owned):
    """See `Graph`."""

    def _drop(self) -> None:
        """Gives it back; a graph under way ends first."""
        driver.release("cuGraphExecDestroy", self.native)


def capture(device: Device, handle: int, work: Callable[[], None]) -> CudaGraph:
    """Keeps what ``work`` gives to a stream as a graph.

    Args:
        device: is current.
        handle: the stream's.
        work: what to keep.

    Raises:
        KernelError: the driver refuses what was called meanwhile.
    """
    return CudaGraph(device, device_stream.capture(handle, lambda _: work()))


def launch(graph: Any, handle: int) -> None:
    """Gives a graph's work to a stream.

    Args:
        graph: from `capture`.
        handle: the stream's.

    Raises:
        KernelError: the driver refuses it.
    """
    driver.call("cuGraphLaunch", graph.native, handle)


def memory_is_full(size: int, free: int, total: int) -> VocoderError:
    """The error for memory that a device has no more of; all sizes in bytes."""
    return VocoderError(
        f"the GPU's memory is full: {size >> 20} MiB needed, {free >> 20} of {total >> 20} MiB free; end what else "
        "runs there ('nvidia-smi' shows it), or decode fewer streams together (--batch)"
    )
