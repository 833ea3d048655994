"""The few calls of CUDA's driver that kernels need, through cuda-bindings, each checked. All of them need a GPU."""

from __future__ import annotations

import ctypes
from importlib import import_module
from typing import Any

from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.targets import Device


def current_device() -> tuple[int, Device]:
    """The ordinal and the description of the device whose context is current on this thread.

    Raises:
        KernelError: there is no driver, no GPU, or no context; says which.
    """
    driver = _driver()
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
    return int(ordinal), Device(
        name=name.split(b"\0")[0].decode(),
        sm=10 * attribute("COMPUTE_CAPABILITY_MAJOR") + attribute("COMPUTE_CAPABILITY_MINOR"),
        multiprocessors=attribute("MULTIPROCESSOR_COUNT"),
        shared_per_block=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        shared_per_multiprocessor=attribute("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
    )


class LoadedKernel:
    """A kernel of a cubin that the driver has loaded."""

    def __init__(self, library: Any, name: str, ordinal: int, device: Device) -> None:
        """Looks it up and loads its code now, so that a launch can be captured into a CUDA graph.

        The driver may load code lazily: without ``cuFuncLoad`` a first launch would load it, which a capture refuses.

        Args:
            library: from `load_library`.
            name: of the kernel.
            ordinal: of the device; its context is current.
            device: the same.
        """
        self._driver = _driver()
        (kernel,) = call("cuLibraryGetKernel", library, name.encode())
        allowed = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        call("cuKernelSetAttribute", allowed, device.shared_per_block, kernel, self._driver.CUdevice(ordinal))
        (function,) = call("cuKernelGetFunction", kernel)
        # Occupancy is asked of the function, launches name the kernel: both have to allow so much shared memory.
        call("cuFuncSetAttribute", function, allowed, device.shared_per_block)
        call("cuFuncLoad", function)
        self._kernel = kernel
        self._function = self._driver.CUfunction(int(kernel))

    def blocks_per_multiprocessor(self, threads: int, shared_bytes: int) -> int:
        """Blocks of that size that are resident on a multiprocessor at once."""
        (function,) = call("cuKernelGetFunction", self._kernel)
        (blocks,) = call("cuOccupancyMaxActiveBlocksPerMultiprocessor", function, threads, shared_bytes)
        return int(blocks)

    def launch(
        self, grid: int, threads: int, shared_bytes: int, arguments: ctypes.Structure, stream: int, *, cooperative: bool
    ) -> None:
        """Puts it on a stream.

        Args:
            grid: blocks.
            threads: of a block.
            shared_bytes: dynamic shared memory of a block.
            arguments: the kernel's only argument; the driver copies it before this returns.
            stream: a stream's handle.
            cooperative: whether the grid must be resident as a whole, else the launch fails.
        """
        driver = self._driver
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared_bytes
        config.hStream = driver.CUstream(stream)
        attributes = []
        if cooperative:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            attributes.append(attribute)
        config.attrs = attributes
        config.numAttrs = len(attributes)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        call("cuLaunchKernelEx", config, self._function, ctypes.addressof(pointers), 0)


def load_library(cubin: bytes) -> Any:
    """Loads a cubin for all contexts of this process.

    Raises:
        KernelError: the driver does not take it, and says which CUDA the driver is for; or a stream is being captured.
    """
    try:
        (library,) = call("cuLibraryLoadData", cubin, [], [], 0, [], [], 0)
    except KernelError as error:
        way_out = ""
        if "STREAM_CAPTURE" in str(error):
            way_out = ". A kernel has to be prepared before a launch of it is captured"
        elif any(code in str(error) for code in _CODES_OF_FOREIGN_CUBINS):
            (version,) = call("cuDriverGetVersion")
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            way_out = (
                f". This driver is for CUDA {cuda}; what a newer CUDA's compiler made may need a newer driver, or take "
                "an older nvcc or nvidia-cuda-nvrtc"
            )
        raise KernelError(f"{error}{way_out}") from error
    return library


_CODES_OF_FOREIGN_CUBINS = ("INVALID_IMAGE", "INVALID_PTX", "INVALID_SOURCE", "NO_BINARY_FOR_GPU", "UNSUPPORTED_PTX")


def clear(address: int, size: int, stream: int) -> None:
    """Puts zeros at a device address, in the stream's order; as `fill`."""
    fill(address, 0, size, stream)


def fill(address: int, word: int, size: int, stream: int) -> None:
    """Puts the same 32 bits everywhere at a device address, in the stream's order.

    Args:
        address: a multiple of 4.
        word: the 32 bits.
        size: bytes, a multiple of 4.
        stream: a stream's handle.
    """
    driver = _driver()
    call("cuMemsetD32Async", driver.CUdeviceptr(address), word, size // 4, driver.CUstream(stream))


def copy(source: int, destination: int, size: int, stream: int) -> None:
    """Copies from one device address to another, in the stream's order.

    Args:
        source: an address.
        destination: an address; what is there may not overlap with the source.
        size: bytes.
        stream: a stream's handle.
    """
    driver = _driver()
    to, where_from = driver.CUdeviceptr(destination), driver.CUdeviceptr(source)
    call("cuMemcpyDtoDAsync", to, where_from, size, driver.CUstream(stream))


def call(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Calls the driver and checks its status.

    Returns:
        What the call gives beside its status.

    Raises:
        KernelError: the name of the call and CUDA's own words.
    """
    driver = _driver()
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
    driver = _driver()
    (status,) = call("cuStreamIsCapturing", driver.CUstream(stream))
    return bool(status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE)


def is_lost() -> bool:
    """Whether an error inside a kernel has ended the current context: every call fails from then on."""
    driver = _driver()
    (status,) = driver.cuCtxSynchronize()
    return bool(status != driver.CUresult.CUDA_SUCCESS)


def release(name: str, *arguments: Any) -> None:
    """Calls the driver to give something back, and leaves its status alone.

    After an error inside a kernel every call fails: checked, those that clean up would hide the first, which says more.
    """
    getattr(_driver(), name)(*arguments)


def constant(enumeration: str, name: str) -> Any:
    """A value of one of the driver's enumerations."""
    return getattr(getattr(_driver(), enumeration), name)


_initialised: Any = None


def _driver() -> Any:
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
