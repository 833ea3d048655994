"""The few calls of CUDA's driver that kernels need, through cuda-bindings, each checked. All of them need a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.targets import DeviceProperties


def current_device() -> tuple[int, DeviceProperties]:
    """The ordinal and the description of the device whose context is current on this thread.

    Raises:
        KernelError: there is no driver, no GPU, or no context; says which.
    """
    driver = bindings()
    (context,) = call("cuCtxGetCurrent")
    if not int(context):
        raise KernelError(
            "no CUDA context is current on this thread; make one, as pycuda and torch do, or with cuCtxSetCurrent, "
            "before kernels are prepared or launched"
        )
    (ordinal,) = call("cuCtxGetDevice")
    wanted = driver.CUdevice_attribute

    def attribute(name: str) -> int:
        (value,) = call("cuDeviceGetAttribute", getattr(wanted, f"CU_DEVICE_ATTRIBUTE_{name}"), ordinal)
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
    """Makes the primary context of a device current, as pycuda and torch do on their own.

    Args:
        ordinal: of the device.

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
    """Puts the same 32 bits everywhere at a device address, in the stream's order.

    Args:
        address: a multiple of 4.
        word: the 32 bits.
        size: bytes, a multiple of 4.
        stream: a stream's handle.
    """
    driver = bindings()
    call("cuMemsetD32Async", driver.CUdeviceptr(address), word, size // 4, driver.CUstream(stream))


def copy(source: int, destination: int, size: int, stream: int) -> None:
    """Copies from one device address to another, in the stream's order.

    Args:
        source: an address.
        destination: an address; what is there may not overlap with the source.
        size: bytes.
        stream: a stream's handle.
    """
    driver = bindings()
    to, where_from = driver.CUdeviceptr(destination), driver.CUdeviceptr(source)
    call("cuMemcpyDtoDAsync", to, where_from, size, driver.CUstream(stream))


def call(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Calls the driver and checks its status.

    Returns:
        What the call gives beside its status.

    Raises:
        KernelError: the name of the call and CUDA's own words.
    """
    driver = bindings()
    status, *results = getattr(driver, name)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        _, words = driver.cuGetErrorString(status)
        raise KernelError(f"{name} failed with {status.name}: {(words or b'no description').decode()}")
    return tuple(results)


def is_capturing(stream: int) -> bool:
    """Whether what is put on a stream goes into a CUDA graph.

    Args:
        stream: a stream's handle.

    Raises:
        KernelError: the handle is no stream's.
    """
    driver = bindings()
    (status,) = call("cuStreamIsCapturing", driver.CUstream(stream))
    return bool(status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE)


def is_lost() -> bool:
    """Whether an error inside a kernel has ended the current context: every call fails from then on."""
    driver = bindings()
    (status,) = driver.cuCtxSynchronize()
    return bool(status != driver.CUresult.CUDA_SUCCESS)


def release(name: str, *arguments: Any) -> None:
    """Calls the driver to give something back, and leaves its status alone.

    After an error inside a kernel every call fails: checked, those that clean up would hide the first, which says more.
    """
    getattr(bindings(), name)(*arguments)


def constant(enumeration: str, name: str) -> Any:
    """A value of one of the driver's enumerations."""
    return getattr(getattr(bindings(), enumeration), name)


_initialised: Any = None


def bindings() -> Any:
    """The module ``cuda.bindings.driver`` with the driver initialised.

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
    except Exception as error:  # the bindings raise another type in each version where libcuda is missing
        raise KernelError(
            f"kernels need an NVIDIA driver, and none is there ({type(error).__name__}: {str(error).strip()}). Plans "
            "and cubins can be built without one; the onnxruntime backend decodes on the CPU"
        ) from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise KernelError(f"cuInit failed with {status.name}; does nvidia-smi list a GPU?")
    _initialised = driver
    return driver
