"""Compiled kernels, loaded for the device at hand when they are first used."""

from __future__ import annotations

import threading
from typing import Any

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache, KernelFile
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.targets import Device


class LoadedKernels:
    """The kernels of one precision on one device."""

    def __init__(self, ordinal: int, device: Device, precision: WeightPrecision, cache: KernelCache) -> None:
        """Loads nothing yet.

        Args:
            ordinal: of the device; its context is current at every call.
            device: the same.
            precision: of the weights.
            cache: of compiled kernels.
        """
        self.device = device
        self._ordinal, self._precision, self._cache = ordinal, precision, cache
        self._libraries: dict[KernelFile, Any] = {}
        self._kernels: dict[str, driver.LoadedKernel] = {}
        self._lock = threading.Lock()

    def get(self, file: KernelFile, name: str) -> driver.LoadedKernel:
        """A kernel of a file, compiled and loaded if it is not.

        Raises:
            KernelError: there is no compiler, or the driver does not take what it made.
        """
        if (found := self._kernels.get(name)) is not None:
            return found  # a launch does not wait until another kernel is compiled
        with self._lock:
            if name not in self._kernels:
                if file not in self._libraries:
                    cubin = self._cache.get(file, self._precision, self.device.sm).cubin
                    self._libraries[file] = driver.load_library(cubin)
                self._kernels[name] = driver.LoadedKernel(self._libraries[file], name, self._ordinal, self.device)
            return self._kernels[name]

    def variable(self, file: KernelFile, name: str) -> tuple[int, int]:
        """Device address and bytes of a global variable of a file whose kernels are loaded.

        Raises:
            KernelError: the file has none of that name.
        """
        address, size = driver.call("cuLibraryGetGlobal", self._libraries[file], name.encode())
        return int(address), int(size)


class KernelsByDevice:
    """The kernels of one precision on whichever device is current."""

    def __init__(self, precision: WeightPrecision, cache: KernelCache | None) -> None:
        """Needs no device yet; the user's cache unless one is given."""
        self._precision, self._cache = precision, cache
        self._loaded: dict[int, LoadedKernels] = {}
        self._lock = threading.Lock()

    @property
    def cache(self) -> KernelCache:
        """Of compiled kernels."""
        if self._cache is None:
            self._cache = KernelCache()
        return self._cache

    def on_current_device(self) -> LoadedKernels:
        """Those of the device whose context is current.

        Raises:
            KernelError: there is no driver, GPU or context.
        """
        ordinal, device = driver.current_device()
        with self._lock:
            if ordinal not in self._loaded:
                self._loaded[ordinal] = LoadedKernels(ordinal, device, self._precision, self.cache)
            return self._loaded[ordinal]
