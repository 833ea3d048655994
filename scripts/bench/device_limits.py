"""What a GPU itself reaches, by PyTorch: a matrix product, and a copy inside its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from wavernn_trt.scripts.bench.availability import require_cuda_torch

PRECISIONS = ("fp32", "fp16", "bf16")
"""Of PyTorch's plain matrix product."""
PRODUCT_SIZE = 8192
"""Rows and columns: 1.1 TFLOP."""
COPY_BYTES = 1 << 28
_TIMES, _WARM_UP = 5, 2


class DeviceLimits:
    """Products in several precisions, and a copy."""

    def __init__(
        self,
        precisions: Sequence[str],
        device: str = "cuda",
        *,
        product_size: int = PRODUCT_SIZE,
        copy_bytes: int = COPY_BYTES,
    ) -> None:
        """Makes what is multiplied and copied.

        Args:
            precisions: some of `PRECISIONS`; float32 as PyTorch computes it unless told otherwise, without TF32.
            device: as PyTorch calls it.
            product_size: rows and columns.
            copy_bytes: of the copy.

        Raises:
            UnavailableError: PyTorch is not there or finds no GPU.
        """
        torch = require_cuda_torch() if device != "cpu" else _torch()
        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        self._torch, self._device, self._size, self._bytes = torch, device, product_size, copy_bytes
        shape = (product_size, product_size)
        self._factors = {name: torch.randn(shape, device=device).to(types[name]) for name in precisions}
        self._source, self._target = (torch.ones(copy_bytes, dtype=torch.uint8, device=device) for _ in range(2))
        self.precisions = tuple(self._factors)

    def flops(self, precision: str) -> float:
        """FLOP/s of the product in a precision."""
        factor = self._factors[precision]
        return 2 * self._size**3 / self._seconds(lambda: factor @ factor)

    def bytes_per_second(self) -> float:
        """Of the copy, bytes read and bytes written, both counted."""
        return 2 * self._bytes / self._seconds(lambda: self._target.copy_(self._source))

    def _seconds(self, work: Callable[[], Any]) -> float:
        elapsed = []
        for _ in range(_WARM_UP + _TIMES):
            self._synchronize()
            started = time.perf_counter()
            work()
            self._synchronize()
            elapsed.append(time.perf_counter() - started)
        return median(elapsed[_WARM_UP:])

    def _synchronize(self) -> None:
        if self._device != "cpu":
            self._torch.cuda.synchronize()


def _torch() -> Any:
    import torch

    return torch
