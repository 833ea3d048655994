"""Kernels loaded on a device; a cubin is loaded at the first use of one of its kernels."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache, KernelFile
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.targets import DeviceProperties


class LoadedKernel:
    """One kernel of a cubin, loaded on one device."""

    def __init__(self, library: Any, name: str, ordinal: int, device: DeviceProperties) -> None:
        """Looks the kernel up and loads its code, so that a launch can be captured into a CUDA graph.

        ``cuFuncLoad`` is necessary: otherwise the driver may load the code at the first launch, and a capture fails.

        Args:
            library: from `load_library`.
            name: name of the kernel.
            ordinal: ordinal of the device, whose context is current.
            device: properties of the device.
        """
        bindings = driver.bindings()
        (kernel,) = driver.call("cuLibraryGetKernel", library, name.encode())
        allowed = bindings.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.call("cuKernelSetAttribute", allowed, device.shared_per_block, kernel, bindings.CUdevice(ordinal))
        (function,) = driver.call("cuKernelGetFunction", kernel)
        # Both limits are set: occupancy is computed for the function, and the kernel is launched.
        driver.call("cuFuncSetAttribute", function, allowed, device.shared_per_block)
        driver.call("cuFuncLoad", function)
        self._kernel = kernel
        self._function = bindings.CUfunction(int(kernel))

    def blocks_per_multiprocessor(self, threads: int, shared_bytes: int) -> int:
        """Returns the maximum number of blocks of this size that are resident on a multiprocessor at once."""
        (function,) = driver.call("cuKernelGetFunction", self._kernel)
        (blocks,) = driver.call("cuOccupancyMaxActiveBlocksPerMultiprocessor", function, threads, shared_bytes)
        return int(blocks)

    def launch(
        self, grid: int, threads: int, shared_bytes: int, arguments: ctypes.Structure, stream: int, *, cooperative: bool
    ) -> None:
        """Enqueues a launch on a stream.

        Args:
            grid: number of blocks.
            threads: threads per block.
            shared_bytes: dynamic shared memory of a block.
            arguments: the kernel's only argument; the driver copies it before this method returns.
            stream: handle of a stream.
            cooperative: True: the launch fails unless all blocks of the grid are resident at once.
        """
        bindings = driver.bindings()
        config = bindings.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared_bytes
        config.hStream = bindings.CUstream(stream)
        attributes = []
        if cooperative:
            attribute = bindings.CUlaunchAttribute()
            attribute.id = bindings.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            attributes.append(attribute)
        config.attrs = attributes
        config.numAttrs = len(attributes)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        driver.call("cuLaunchKernelEx", config, self._function, ctypes.addressof(pointers), 0)


def load_library(cubin: bytes) -> Any:
    """Loads a cubin for all contexts of this process.

    Raises:
        KernelError: the driver does not support the cubin, or a stream is being captured.
    """
    try:
        (library,) = driver.call("cuLibraryLoadData", cubin, [], [], 0, [], [], 0)
    except KernelError as error:
        way_out = ""
        if "STREAM_CAPTURE" in str(error):
            way_out = ". Prepare a kernel before its launch is captured"
        elif any(code in str(error) for code in _CODES_OF_FOREIGN_CUBINS):
            (version,) = driver.call("cuDriverGetVersion")
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            way_out = (
                f". This driver supports CUDA {cuda}; a cubin of a newer compiler may need a newer driver. Update the "
                "driver, or install an older nvcc or nvidia-cuda-nvrtc"
            )
        raise KernelError(f"{error}{way_out}") from error
    return library


_CODES_OF_FOREIGN_CUBINS = ("INVALID_IMAGE", "INVALID_PTX", "INVALID_SOURCE", "NO_BINARY_FOR_GPU", "UNSUPPORTED_PTX")


class LoadedKernels:
    """The kernels of one precision on one device."""

    def __init__(self, ordinal: int, device: DeviceProperties, precision: WeightPrecision, cache: KernelCache) -> None:
        """Loads nothing yet.

        Args:
            ordinal: ordinal of the device, whose context must be current at every call.
            device: properties of the device.
            precision: precision of the weights.
            cache: cache of compiled kernels.
        """
        self.device = device
        self._ordinal, self._precision, self._cache = ordinal, precision, cache
        self._libraries: dict[KernelFile, Any] = {}
        self._kernels: dict[str, LoadedKernel] = {}
        self._lock = threading.Lock()

    def get(self, file: KernelFile, name: str) -> LoadedKernel:
        """Returns a kernel of a file; compiles and loads it at its first use.

        Raises:
            KernelError: there is no compiler, or the driver does not support the cubin.
        """
        if (found := self._kernels.get(name)) is not None:
            return found  # without the lock, which another thread holds while it compiles
        with self._lock:
            if name not in self._kernels:
                if file not in self._libraries:
                    cubin = self._cache.get(file, self._precision, self.device.sm).cubin
                    self._libraries[file] = load_library(cubin)
                self._kernels[name] = LoadedKernel(self._libraries[file], name, self._ordinal, self.device)
            return self._kernels[name]

    def variable(self, file: KernelFile, name: str) -> tuple[int, int]:
        """Returns the device address and the size of a global variable of a file whose kernels are loaded.

        Raises:
            KernelError: the file has no such variable.
        """
        address, size = driver.call("cuLibraryGetGlobal", self._libraries[file], name.encode())
        return int(address), int(size)


class KernelsByDevice:
    """The kernels of one precision on every device that has been current."""

    def __init__(self, precision: WeightPrecision, cache: KernelCache | None) -> None:
        """Needs no device yet; without a cache, uses the user's."""
        self._precision, self.cache = precision, cache or KernelCache()
        self._loaded: dict[int, LoadedKernels] = {}
        self._lock = threading.Lock()

    def on_current_device(self) -> LoadedKernels:
        """Returns the kernels on the device whose context is current.

        Raises:
            KernelError: there is no driver, GPU or context.
        """
        ordinal, device = driver.current_device()
        with self._lock:
            if ordinal not in self._loaded:
                self._loaded[ordinal] = LoadedKernels(ordinal, device, self._precision, self.cache)
            return self._loaded[ordinal]
