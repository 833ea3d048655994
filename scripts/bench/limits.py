"""Limits with which speeds are compared: the machine's matrix products and memory copies, from the same rounds."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import threadpoolctl
from numpy.typing import NDArray
from onnx import TensorProto, helper

from wavernn_trt.plugins.cpu.decoder import StepWork
from wavernn_trt.runtime.executors.onnx_runtime import usable_cores
from wavernn_trt.scripts.bench.backends import UnavailableError, require_cuda_torch
from wavernn_trt.scripts.bench.machine import largest_cache
from wavernn_trt.scripts.bench.own_limit import CPU, own_limits

LIBRARIES = ("onnxruntime", "numpy")
"""Names of the limits of float32 products on the CPU, by these libraries, in FLOP/s."""
COPY = "copy"
"""Name of the limit of a copy in the CPU's memory, in bytes a second."""
GPU_COPY = "gpu copy"
"""Name of the limit of a copy in the GPU's memory, in bytes a second."""
GPU = "gpu limit"
"""Name of the GPU's limits in the report's list of what is missing."""
SIZE = 1536
"""Rows and columns of the CPU's product: 7 GFLOP, and 27 MiB for its three matrices."""
GPU_PRECISIONS = ("fp32", "fp16", "bf16")
"""Precisions of PyTorch's plain matrix product."""
_GPU_SIZE, _GPU_COPY_BYTES = 8192, 1 << 28
"""Rows and columns of the GPU's product (1.1 TFLOP); bytes of its copy."""
_SMALLEST, _LARGEST = 128 << 20, 2 << 30
_CACHES = 4
"""Size of a copy as a multiple of the last-level cache, so that almost nothing is read from the cache."""
_TIMES = 3
_GPU_TIMES, _GPU_WARM_UP = 5, 2


def gpu_product(precision: str) -> str:
    """Name of the limit of a GPU's matrix product, in FLOP/s."""
    return f"gpu {_operands(precision)} product"


def measure_product(threads: int, gpu_precision: str | None) -> float:
    """Measures a matrix product in FLOP/s: of ONNX Runtime in float32, or of a GPU in a precision.

    Raises:
        UnavailableError: PyTorch is not installed or finds no GPU.
    """
    if gpu_precision is None:
        return MatrixProducts(threads).flops("onnxruntime")
    return DeviceLimits([_operands(gpu_precision)]).flops(_operands(gpu_precision))


class Limits:
    """All limits of a run, by name."""

    def __init__(
        self, threads: int, gpu_precisions: Sequence[str], missing: dict[str, str], works: Sequence[StepWork] = ()
    ) -> None:
        """Allocates the operands.

        Args:
            threads: CPU threads.
            gpu_precisions: of the rows on a GPU.
            missing: receives the limits that cannot be measured, with the reason.
            works: of the rows on the CPU, for their own limits.
        """
        self._copy = MemoryCopy(threads)
        products = MatrixProducts(threads)
        self.numpy_threads = products.numpy_threads
        """Threads of numpy's product; threadpoolctl cannot limit every BLAS."""
        self._measure: dict[str, Callable[[], float]] = {name: partial(products.flops, name) for name in LIBRARIES}
        self._measure[COPY] = self._copy.bytes_per_second
        if works:
            try:
                self._measure |= own_limits(threads, works)
            except UnavailableError as error:
                missing[CPU] = str(error)
        if gpu_precisions:
            try:
                wanted = [one for one in GPU_PRECISIONS if one in map(_operands, gpu_precisions)]
                device = DeviceLimits(wanted)
            except UnavailableError as error:
                missing[GPU] = str(error)
            else:
                for precision in wanted:
                    self._measure[gpu_product(precision)] = partial(device.flops, precision)
                self._measure[GPU_COPY] = device.bytes_per_second
        self.names = tuple(self._measure)

    def measure(self) -> dict[str, float]:
        """Measures all limits once."""
        return {name: measure() for name, measure in self._measure.items()}

    def close(self) -> None:
        """Ends the threads."""
        self._copy.close()


class MatrixProducts:
    """The product of two large float32 matrices, by ONNX Runtime and by numpy."""

    def __init__(self, threads: int) -> None:
        """Opens a session of ``threads`` threads, to which numpy's BLAS is limited too while it is measured."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(_product_model(), options, providers=["CPUExecutionProvider"])
        generator = np.random.default_rng(0)
        self._a, self._b = (generator.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
        self._threads = threads
        self._blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
        with self._blas.limit(limits=threads):
            self.numpy_threads = max((one["num_threads"] for one in self._blas.info()), default=usable_cores())

    def flops(self, library: str) -> float:
        """FLOP/s: the median of several products."""
        if library == "numpy":
            with self._blas.limit(limits=self._threads):
                return 2 * SIZE**3 / _median_seconds(lambda: self._a @ self._b)
        return 2 * SIZE**3 / _median_seconds(lambda: self._session.run(None, {"a": self._a, "b": self._b}))


class MemoryCopy:
    """A copy of a large array, with one part for each thread."""

    def __init__(self, threads: int, size: int | None = None) -> None:
        """Allocates arrays of ``size`` bytes; by default several times the largest cache."""
        self.size = size or min(_LARGEST, max(_SMALLEST, _CACHES * largest_cache()))
        """Bytes of each array."""
        self._source: NDArray[np.uint8] = np.ones(self.size, np.uint8)
        self._target: NDArray[np.uint8] = np.ones(self.size, np.uint8)  # written, so that its pages are allocated
        self._parts = [slice(self.size * i // threads, self.size * (i + 1) // threads) for i in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def bytes_per_second(self) -> float:
        """Bytes read and written a second: the median of several copies."""
        return 2 * self.size / _median_seconds(lambda: list(self._pool.map(self._copy, self._parts)))

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _copy(self, part: slice) -> None:
        np.copyto(self._target[part], self._source[part])  # releases the GIL


class DeviceLimits:
    """A GPU's matrix products and memory copy, by PyTorch."""

    def __init__(
        self,
        precisions: Sequence[str],
        device: str = "cuda",
        *,
        product_size: int = _GPU_SIZE,
        copy_bytes: int = _GPU_COPY_BYTES,
    ) -> None:
        """Allocates the operands.

        Args:
            precisions: some of `GPU_PRECISIONS`; float32 is PyTorch's default, without TF32.
            device: PyTorch's name of it; ``cpu`` for tests.
            product_size: rows and columns of the product.
            copy_bytes: size of the copy.

        Raises:
            UnavailableError: PyTorch is not installed or finds no GPU.
        """
        torch: Any = require_cuda_torch() if device != "cpu" else importlib.import_module("torch")
        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        self._size, self._bytes = product_size, copy_bytes
        self._synchronize = (lambda: None) if device == "cpu" else torch.cuda.synchronize
        shape = (product_size, product_size)
        self._factors = {name: torch.randn(shape, device=device).to(types[name]) for name in precisions}
        self._source, self._target = (torch.ones(copy_bytes, dtype=torch.uint8, device=device) for _ in range(2))

    def flops(self, precision: str) -> float:
        """FLOP/s of a product in a precision."""
        factor = self._factors[precision]
        return 2 * self._size**3 / self._seconds(lambda: factor @ factor)

    def bytes_per_second(self) -> float:
        """Bytes read and written a second."""
        return 2 * self._bytes / self._seconds(lambda: self._target.copy_(self._source))

    def _seconds(self, work: Callable[[], Any]) -> float:
        def finish() -> None:
            work()
            self._synchronize()

        _median_seconds(finish, _GPU_WARM_UP)
        return _median_seconds(finish, _GPU_TIMES)


def _operands(precision: str) -> str:
    """Precision of a product's operands: weights in fp8 are multiplied as fp16."""
    return "fp16" if precision == "fp8" else precision


def _median_seconds(work: Callable[[], Any], times: int = _TIMES) -> float:
    elapsed = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        elapsed.append(time.perf_counter() - started)
    return median(elapsed)


def _product_model() -> bytes:
    """An ONNX model of c = a @ b for square float32 matrices."""
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "n"]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    opsets = [helper.make_opsetid("", 13)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model
