"""Calls of the CUDA driver through cuda-bindings, with their status checked. All of them need a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.targets import DeviceProperties


def current_device() -> tuple[int, DeviceProperties]:
    """Returns the ordinal and the properties of the device whose context is current on this thread.

    Raises:
        KernelError: there is no driver, no GPU, or no context.
    """
    (context,) = call("cuCtxGetCurrent")
    if not int(context):
        raise KernelError(
            "no CUDA context is current on this thread; create one, as pycuda and torch do, or call cuCtxSetCurrent, "
            "before kernels are prepared or launched"
        )
    (ordinal,) = call("cuCtxGetDevice")

    def attribute(name: str) -> int:
        key = constant("CUdevice_attribute", f"CU_DEVICE_ATTRIBUTE_{name}")
        (value,) = call("cuDeviceGetAttribute", key, ordinal)
        return int(value)

    (name,) = call("cuDeviceGetName", 256, ordinal)
    return int(ordinal), DeviceProperties(
        name=name.split(b"\0")[0].decode(),
        sm=10 * attribute("COMPUTE_CAPABILITY_MAJOR") + attribute("COMPUTE_CAPABILITY_MINOR"),
        multiprocessors=attribute("MULTIPROCESSOR_COUNT"),
        shared_per_block=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    )


@contextlib.contextmanager
def primary_context(ordinal: int = 0) -> Iterator[None]:
    """Makes the primary context of the device with this ordinal current, as pycuda and torch do on their own.

    Raises:
        KernelError: there is no driver or no such device.
    """
    (device,) = call("cuDeviceGet", ordinal)
    (context,) = call("cuDevicePrimaryCtxRetain", device)
    try:
        call("cuCtxPushCurrent", context)
        try:
            yield
        finally:
            release("cuCtxPopCurrent")
    finally:
        release("cuDevicePrimaryCtxRelease", device)


def fill(address: int, word: int, size: int, stream: int) -> None:
    """Enqueues a fill of device memory with a 32-bit word.

    Args:
        address: device address, a multiple of 4.
        word: the 32 bits.
        size: bytes, a multiple of 4.
        stream: handle of a stream.
    """
    driver = bindings()
    call("cuMemsetD32Async", driver.CUdeviceptr(address), word, size // 4, driver.CUstream(stream))


def copy(source: int, destination: int, size: int, stream: int) -> None:
    """Enqueues a copy of ``size`` bytes from one device address to another.

    Args:
        source: device address.
        destination: device address; the two ranges may not overlap.
        size: bytes.
        stream: handle of a stream.
    """
    driver = bindings()
    pointers = driver.CUdeviceptr(destination), driver.CUdeviceptr(source)
    call("cuMemcpyDtoDAsync", *pointers, size, driver.CUstream(stream))


def call(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Calls a function of the driver and checks its status.

    Returns:
        The results of the call, without the status.

    Raises:
        KernelError: the call fails; contains its name and CUDA's message.
    """
    driver = bindings()
    status, *results = getattr(driver, name)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        _, message = driver.cuGetErrorString(status)
        raise KernelError(f"{name} failed with {status.name}: {(message or b'no description').decode()}")
    return tuple(results)


def is_capturing(stream: int) -> bool:
    """Whether the stream with this handle is being captured into a CUDA graph.

    Raises:
        KernelError: not the handle of a stream.
    """
    driver = bindings()
    (status,) = call("cuStreamIsCapturing", driver.CUstream(stream))
    return bool(status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE)


def is_lost() -> bool:
    """Whether an error inside a kernel has destroyed the current context, so that every further call fails."""
    driver = bindings()
    (status,) = driver.cuCtxSynchronize()
    return bool(status != driver.CUresult.CUDA_SUCCESS)


def release(name: str, *arguments: Any) -> None:
    """Calls a function of the driver that frees something, and ignores its status.

    After an error inside a kernel every call fails; errors of the clean-up would hide the first error.
    """
    getattr(bindings(), name)(*arguments)


def constant(enumeration: str, name: str) -> Any:
    """Returns a value of an enumeration of the driver."""
    return getattr(getattr(bindings(), enumeration), name)


_initialised: Any = None


def bindings() -> Any:
    """Returns the module ``cuda.bindings.driver``, with the driver initialised.

    Raises:
        KernelError: the package or the driver is missing.
    """
    global _initialised
    if _initialised is not None:
        return _initialised
    try:
        driver: Any = import_module("cuda.bindings.driver")
    except ImportError as error:
        raise KernelError(f"cuda-bindings cannot be used ({error}): `pip install cuda-bindings`") from error
    try:
        (status,) = driver.cuInit(0)
    except Exception as error:  # the type of the exception differs between versions of the bindings
        raise KernelError(
            f"kernels need an NVIDIA driver, and none is installed ({type(error).__name__}: {str(error).strip()}). "
            "Plans and cubins can be built without one; the onnxruntime backend decodes on the CPU"
        ) from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise KernelError(f"cuInit failed with {status.name}; does nvidia-smi list a GPU?")
    _initialised = driver
    return driver
