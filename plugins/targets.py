"""Compute capabilities that kernels are compiled for, and the properties of a GPU that a launch depends on."""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = (80, 86, 89, 90, 100, 120)
"""Compute capabilities (10 * major + minor) for which all kernels can be compiled in advance."""
TENSOR_CORES_FROM = 80
"""Lowest compute capability whose tensor cores support the instructions of kernels/patch.h."""

_KIB = 1024
SHARED_MEMORY: dict[int, int] = {
    75: 64 * _KIB,
    80: 163 * _KIB,
    86: 99 * _KIB,
    89: 99 * _KIB,
    90: 227 * _KIB,
    100: 227 * _KIB,
    103: 227 * _KIB,
    120: 99 * _KIB,
    121: 99 * _KIB,
}
"""Maximum bytes of shared memory of a block, by compute capability (CUDA C++ Programming Guide, technical
specifications)."""


@dataclass(frozen=True)
class DeviceProperties:
    """The properties of a GPU that a launch depends on."""

    name: str
    sm: int
    """Compute capability, 10 * major + minor."""
    multiprocessors: int
    """Streaming multiprocessors, of the MIG instance if the GPU is divided."""
    shared_per_block: int
    """Maximum bytes of shared memory of a block."""

    @classmethod
    def of(cls, name: str, sm: int, multiprocessors: int) -> DeviceProperties:
        """Describes a GPU with the shared memory of its compute capability, one of `SHARED_MEMORY`."""
        return cls(name, sm, multiprocessors, SHARED_MEMORY[sm])
