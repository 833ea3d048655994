"""What kernels are compiled for and launched on: compute capabilities, and what one GPU has of each resource."""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = (80, 86, 89, 90, 100, 120)
"""Compute capabilities (10 * major + minor) that ship compiled where all are asked for."""
TENSOR_CORES_FROM = 80
"""The first compute capability whose tensor cores take the operands of kernels/patch.h."""
REGISTERS_PER_MULTIPROCESSOR = 65536
"""32-bit registers; the same on every target."""
REGISTERS_PER_THREAD = 255
"""At most; the same on every target."""

_KIB = 1024
SHARED_MEMORY: dict[int, tuple[int, int]] = {
    75: (64 * _KIB, 64 * _KIB),
    80: (163 * _KIB, 164 * _KIB),
    86: (99 * _KIB, 100 * _KIB),
    89: (99 * _KIB, 100 * _KIB),
    90: (227 * _KIB, 228 * _KIB),
    100: (227 * _KIB, 228 * _KIB),
    103: (227 * _KIB, 228 * _KIB),
    120: (99 * _KIB, 100 * _KIB),
    121: (99 * _KIB, 100 * _KIB),
}
"""Bytes of shared memory that one block can ask for, and that a multiprocessor has, by compute capability (CUDA C++
Programming Guide, table of technical specifications)."""


@dataclass(frozen=True)
class Device:
    """A GPU, as far as a launch depends on it."""

    name: str
    """As the driver tells it."""
    sm: int
    """Compute capability, 10 * major + minor."""
    multiprocessors: int
    """Streaming multiprocessors; of a MIG instance, those that it has."""
    shared_per_block: int
    """Bytes of shared memory that one block can ask for."""
    shared_per_multiprocessor: int
    """Bytes of shared memory that the blocks of a multiprocessor have together."""

    @classmethod
    def of(cls, name: str, sm: int, multiprocessors: int) -> Device:
        """A GPU whose shared memory is that of its compute capability.

        Raises:
            KeyError: a compute capability that is not in `SHARED_MEMORY`.
        """
        return cls(name, sm, multiprocessors, *SHARED_MEMORY[sm])
