"""What kernels are compiled for and launched on: compute capabilities, and what one GPU has of each resource."""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = (80, 86, 89, 90, 100, 120)
"""Compute capabilities (10 * major + minor) that ship compiled where all are asked for."""
TENSOR_CORES_FROM = 80
"""The first compute capability whose tensor cores take the operands of kernels/patch.h."""

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
"""Bytes of shared memory that one block can ask for, by compute capability (CUDA C++ Programming Guide, technical
specifications)."""


@dataclass(frozen=True)
class DeviceProperties:
    """A GPU, as far as a launch depends on it."""

    name: str
    """From the driver."""
    sm: int
    """Compute capability, 10 * major + minor."""
    multiprocessors: int
    """Streaming multiprocessors; of a MIG instance, those that it has."""
    shared_per_block: int
    """Bytes of shared memory that one block can ask for."""

    @classmethod
    def of(cls, name: str, sm: int, multiprocessors: int) -> DeviceProperties:
        """A GPU whose shared memory is that of its compute capability.

        Raises:
            KeyError: a compute capability that is not in `SHARED_MEMORY`.
        """
        return cls(name, sm, multiprocessors, SHARED_MEMORY[sm])
