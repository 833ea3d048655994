"""Rounding to the grids of quantised products, in numpy: the reference for all executors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.quantization import LARGEST, Grid, Product

_TYPES: dict[Grid, Any] = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "fp8": ml_dtypes.float8_e4m3fn,
}


def channel_scales(weight: NDArray[Any], grid: Grid) -> FloatArray:
    """Returns the scale of each row of a weight.

    Args:
        weight: [outputs, inputs], finite.
        grid: ``int8`` or ``fp8``.

    Returns:
        float32 [outputs], positive normal numbers.
    """
    largest = np.abs(np.asarray(weight, np.float32)).max(axis=1, initial=0.0)
    scales = largest / np.float32(LARGEST[grid])
    # A channel whose scale would be subnormal or zero is treated as zeros.
    return np.where(scales >= np.finfo(np.float32).tiny, scales, 1).astype(np.float32)


def encode(values: NDArray[Any], scales: NDArray[Any] | float, grid: Grid) -> NDArray[Any]:
    """Returns the nearest codes of a scaled grid, ties to even; larger values are clipped.

    Args:
        values: finite.
        scales: broadcast against them.
        grid: ``int8`` (clipped at -128 as in ONNX and TensorRT, although scales use 127) or ``fp8``.

    Returns:
        int8 or float8_e4m3fn, in the values' shape.
    """
    scaled = np.asarray(values, np.float32) / np.asarray(scales, np.float32)
    if grid == "int8":
        return np.clip(np.rint(scaled), -128, 127).astype(np.int8)
    return np.clip(scaled, -LARGEST[grid], LARGEST[grid]).astype(_TYPES[grid])


def encode_weight(weight: NDArray[Any], grid: Grid) -> tuple[NDArray[Any], FloatArray]:
    """Returns a weight's codes [outputs, inputs] and scales [outputs]; a rounded weight has the same codes.

    Raises:
        ValueError: NaN or infinity among the weights.
    """
    _check_finite(weight)
    scales = channel_scales(weight, grid)
    return encode(weight, scales[:, None], grid), scales


def round_weight(weight: NDArray[Any], product: Product) -> FloatArray:
    """Returns a weight [outputs, inputs] rounded to a product's grid, float32.

    Raises:
        ValueError: NaN or infinity among the weights, or values that are infinite in the grid.
    """
    if product.grid not in LARGEST:
        _check_finite(weight)
        with np.errstate(over="ignore"):
            cast: FloatArray = np.asarray(weight, np.float32).astype(_TYPES[product.grid]).astype(np.float32)
        if not np.isfinite(cast).all():
            raise ValueError(f"found weights up to {np.abs(weight).max():g}, which {product.grid} cannot hold")
        return cast
    codes, scales = encode_weight(weight, product.grid)
    rounded: FloatArray = codes.astype(np.float32) * scales[:, None]
    return rounded


def _check_finite(weight: NDArray[Any]) -> None:
    if not np.isfinite(np.asarray(weight, np.float32)).all():
        raise ValueError("found NaN or infinity among the weights; export a sound checkpoint")


def round_activations(values: NDArray[Any], product: Product) -> FloatArray:
    """Returns activations rounded to a product's grid, float32; the same array where only weights are rounded."""
    if product.weights_only:
        return values
    if product.grid not in LARGEST:
        return np.asarray(values, np.float32).astype(_TYPES[product.grid]).astype(np.float32)
    scale = float(np.float32(product.scale))
    rounded: FloatArray = encode(values, scale, product.grid).astype(np.float32) * np.float32(scale)
    return rounded
