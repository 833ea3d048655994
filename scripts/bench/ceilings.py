"""What speed is held against: the matrix product and the memory copy of the machine, measured in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wavernn_trt.scripts.bench.availability import UnavailableError
from wavernn_trt.scripts.bench.device_limits import PRECISIONS, DeviceLimits
from wavernn_trt.scripts.bench.matrix_product import MatrixProducts
from wavernn_trt.scripts.bench.memory_copy import MemoryCopy

LIBRARIES = MatrixProducts.names
"""Whose float32 products on the CPU are measured, in FLOP/s; a ceiling bears the library's name."""
COPY = "copy"
"""Of the CPU's memory, in bytes a second."""
GPU_COPY = "gpu copy"
"""Of the GPU's own memory, in bytes a second."""
GPU = "gpu limit"
"""What the report calls the GPU's ceilings where they are missing."""


def gpu_product(precision: str) -> str:
    """The name of a GPU's matrix product, in FLOP/s; weights of fp8 are multiplied as fp16."""
    return f"gpu {'fp16' if precision == 'fp8' else precision} product"


class Ceilings:
    """All ceilings of a run, by name."""

    def __init__(self, threads: int, gpu_precisions: Sequence[str], missing: dict[str, str]) -> None:
        """Prepares.

        Args:
            threads: of the CPU's.
            gpu_precisions: of the subjects that run on a GPU; empty where none does.
            missing: is told why a GPU's cannot be measured.
        """
        products, self._copy = MatrixProducts(threads), MemoryCopy(threads)
        self._measure: dict[str, Callable[[], float]] = {}
        for library in LIBRARIES:
            self._measure[library] = _bind(products.flops, library)
        self._measure[COPY] = self._copy.bytes_per_second
        if gpu_precisions:
            try:
                wanted = [one for one in PRECISIONS if gpu_product(one) in map(gpu_product, gpu_precisions)]
                device = DeviceLimits(wanted)
            except UnavailableError as error:
                missing[GPU] = str(error)
            else:
                for precision in device.precisions:
                    self._measure[gpu_product(precision)] = _bind(device.flops, precision)
                self._measure[GPU_COPY] = device.bytes_per_second
        self.names = tuple(self._measure)

    def measure(self) -> dict[str, float]:
        """Each of them now."""
        return {name: measure() for name, measure in self._measure.items()}

    def close(self) -> None:
        """Gives threads back."""
        self._copy.close()


def _bind(measure: Callable[[str], float], name: str) -> Callable[[], float]:
    return lambda: measure(name)
