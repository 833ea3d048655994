"""What a plain float32 matrix product reaches on the CPU."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import onnxruntime

SIZE = 1536
"""Rows and columns: 7 GFLOP, and 27 MiB for its three matrices."""
_TIMES = 3

# c = a @ b for square float32 matrices, opset 13; serialised, since the package "onnx" is only there for exporting.
_MODEL = (
    b'\x08\x07\x12\x00:[\n\x11\n\x01a\n\x01b\x12\x01c"\x06MatMul\x12\x01g'
    b"Z\x15\n\x01a\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x12\x01n\n\x03\x12\x01n"
    b"Z\x15\n\x01b\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x12\x01n\n\x03\x12\x01n"
    b"b\x15\n\x01c\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x12\x01n\n\x03\x12\x01nB\x04\n\x00\x10\r"
)


class MatrixProducts:
    """The product of two large matrices, by ONNX Runtime and by numpy."""

    names = ("onnxruntime", "numpy")

    def __init__(self, threads: int) -> None:
        """Opens a session; numpy's threads are whatever it was started with."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(_MODEL, options, providers=["CPUExecutionProvider"])
        generator = np.random.default_rng(0)
        self._a, self._b = (generator.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))

    def flops(self, name: str) -> float:
        """FLOP/s, the median of a few products: what is sustained, since what it is compared with takes longer."""
        elapsed = []
        for _ in range(_TIMES):
            started = time.perf_counter()
            if name == "numpy":
                self._a @ self._b
            else:
                self._session.run(None, {"a": self._a, "b": self._b})
            elapsed.append(time.perf_counter() - started)
        return 2 * SIZE**3 / median(elapsed)
