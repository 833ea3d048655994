"""The GPUs of this machine, read from NVIDIA's driver library.

TensorRT is not used for this: without a driver, TensorRT-RTX returns plans as ``None`` and the lean runtime crashes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

DRIVER = "libcuda.so.1"
"""The library that is installed with the driver only."""

_NO_DEVICE = 100
_STUB_LIBRARY = 34
_MAJOR, _MINOR = 75, 76
"""CUdevice_attribute of the compute capability's two parts."""
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    """The driver's name for it, such as ``NVIDIA L4``."""
    sm: int
    """Compute capability, 10 * major + minor."""


@dataclass(frozen=True)
class DriverState:
    """The driver's GPUs, or the reason why there are none."""

    devices: tuple[Gpu, ...]
    """In the driver's order, which ``CUDA_VISIBLE_DEVICES`` restricts and changes."""
    reason: str | None
    """The reason, where there are none."""


class _DriverError(Exception):
    """A driver call failed."""


def driver_state(library: str = DRIVER) -> DriverState:
    """Returns the driver's GPUs. Creates no CUDA context and allocates no GPU memory.

    Args:
        library: name or path of the driver's library.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        if "No such file" in str(error):
            return DriverState((), f"{library} was not found, so there is no NVIDIA driver")
        return DriverState((), f"{library} does not load: {error}")
    try:
        return DriverState(*_devices(driver))
    except AttributeError as error:
        return DriverState((), f"{library} is no CUDA driver: {error}")
    except _DriverError as error:
        return DriverState((), str(error))


def building_gpu() -> tuple[Gpu, ...]:
    """Returns the GPU that regular TensorRT builds on and for: the first one, or none."""
    return driver_state().devices[:1]


def _devices(driver: ctypes.CDLL) -> tuple[tuple[Gpu, ...], str | None]:
    count = ctypes.c_int()
    code = driver.cuInit(0)
    if code != _NO_DEVICE:
        _check(driver, "cuInit", code)
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != _NO_DEVICE:
        _check(driver, "cuDeviceGetCount", code)
    if not count.value:
        return (), "there is an NVIDIA driver, and no GPU that it shows (is CUDA_VISIBLE_DEVICES set?)"
    return tuple(_device(driver, ordinal) for ordinal in range(count.value)), None


def _device(driver: ctypes.CDLL, ordinal: int) -> Gpu:
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(_LONGEST_NAME)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(driver, "cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), ordinal))
    _check(driver, "cuDeviceGetName", driver.cuDeviceGetName(name, _LONGEST_NAME, device))
    for part, attribute in ((major, _MAJOR), (minor, _MINOR)):
        _check(driver, "cuDeviceGetAttribute", driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device))
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)


def _check(driver: ctypes.CDLL, function: str, code: int) -> None:
    if code == 0:
        return
    if code == _STUB_LIBRARY:
        raise _DriverError(f"{DRIVER} is the stub that programs are linked with, and no driver")
    text = ctypes.c_char_p()
    named = driver.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
    name = f" ({text.value.decode(errors='replace')})" if named and text.value else ""
    raise _DriverError(f"the NVIDIA driver does not work: {function} gives error {code}{name}")
