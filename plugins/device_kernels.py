"""Random cells and chunks run on the GPU as `wavernn_trt.plugins.host_kernels` runs them on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.kernel_cases import Arrays, GruCase, SequenceCase
from wavernn_trt.plugins.launch import GruCellKernel, SequenceKernel


class DeviceKernels:
    """Runs cases on the device whose context is current; every call allocates, copies and waits."""

    def __init__(self, cache: KernelCache | None = None) -> None:
        """Uses that cache of compiled kernels; the user's unless given."""
        self._cache = cache

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> NDArray[np.float32]:
        """Runs a cell.

        Args:
            case: what to run.
            inputs: other ones than the case's.
            captured: whether it is captured into a CUDA graph, and that is launched twice.

        Raises:
            KernelError: there is no GPU, or a call fails.
        """
        kernel = GruCellKernel(case.hidden_size, case.precision, self._cache)
        kernel.prepare()
        outputs = {"next_hidden": np.full((case.batch, case.hidden_size), np.nan, np.float32)}
        operands = list((inputs or case.inputs()).values())
        with _on_device([*operands, *outputs.values()]) as pointers:
            _run(lambda stream: kernel.launch(case.batch, pointers, stream), captured)
            _fetch(outputs, pointers[len(operands) :])
        return outputs["next_hidden"]

    def sequence(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        groups: int = 1,
        captured: bool = False,
    ) -> Arrays:
        """Runs a chunk on outputs and a workspace full of NaN.

        Args:
            case: what to run.
            inputs: of the case.
            groups: groups of blocks.
            captured: whether it is captured into a CUDA graph, and that is launched twice.

        Returns:
            The node's outputs.

        Raises:
            KernelError: there is no GPU, or a call fails.
        """
        kernel = SequenceKernel(case.shape, case.precision, self._cache, groups)
        kernel.prepare()
        sizes = (case.batch, case.steps, case.window)
        outputs = case.poisoned_outputs()
        operands = [inputs[operand.name] for operand in case.shape.inputs()]
        workspace = np.full(kernel.workspace_bytes(*sizes), 0xFF, np.uint8)
        with _on_device([*operands, *outputs.values(), workspace]) as pointers:
            _run(lambda stream: kernel.launch(*sizes, pointers[:-1], pointers[-1], stream), captured)
            _fetch(outputs, pointers[len(operands) : -1])
        return outputs


@contextlib.contextmanager
def primary_context(ordinal: int = 0) -> Iterator[None]:
    """Makes the primary context of a device current, as pycuda and torch do on their own.

    Args:
        ordinal: of the device.

    Raises:
        KernelError: there is no driver or no such device.
    """
    (device,) = driver.call("cuDeviceGet", ordinal)
    (context,) = driver.call("cuDevicePrimaryCtxRetain", device)
    try:
        driver.call("cuCtxPushCurrent", context)
        try:
            yield
        finally:
            driver.release("cuCtxPopCurrent")
    finally:
        driver.release("cuDevicePrimaryCtxRelease", device)


@contextlib.contextmanager
def _on_device(arrays: list[NDArray[Any]]) -> Iterator[list[int]]:
    """Copies of arrays in device memory, by address."""
    allocated: list[Any] = []
    try:
        for array in arrays:
            contiguous = np.ascontiguousarray(array)
            (address,) = driver.call("cuMemAlloc", max(contiguous.nbytes, 1))
            allocated.append(address)
            driver.call("cuMemcpyHtoD", address, contiguous.ctypes.data, contiguous.nbytes)
        yield [int(address) for address in allocated]
    finally:
        for address in allocated:
            driver.release("cuMemFree", address)


def _fetch(outputs: Arrays, pointers: list[int]) -> None:
    for array, pointer in zip(outputs.values(), pointers, strict=True):
        driver.call("cuMemcpyDtoH", array.ctypes.data, pointer, array.nbytes)


def _run(launch: Callable[[int], None], captured: bool) -> None:
    (stream,) = driver.call("cuStreamCreate", 1)  # non-blocking: not ordered after the legacy default stream
    try:
        driver.call("cuCtxSynchronize")
        if captured:
            # Relaxed would also hide what a launch may not do; thread-local refuses allocations and waits.
            mode = driver.constant("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
            driver.call("cuStreamBeginCapture", stream, mode)
            launch(int(stream))
            (graph,) = driver.call("cuStreamEndCapture", stream)
            (executable,) = driver.call("cuGraphInstantiate", graph, 0)
            for _ in range(2):  # a replay has to find everything as the first launch did
                driver.call("cuGraphLaunch", executable, stream)
            driver.call("cuStreamSynchronize", stream)
            driver.call("cuGraphExecDestroy", executable)
            driver.call("cuGraphDestroy", graph)
        else:
            launch(int(stream))
            driver.call("cuStreamSynchronize", stream)
    finally:
        driver.release("cuStreamDestroy", stream)
