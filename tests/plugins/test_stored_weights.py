"""Weights are stored as the nearest numbers of a precision; of eight bits with a scale for each row."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.operators import Operand
from wavernn_trt.export.quantization import LARGEST
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stored_weights import (
    HALF_OF_CODE,
    round_to,
    round_weight,
    store,
    store_operands,
    store_weight,
    widen,
)


def awkward() -> FloatArray:
    """Numbers of every size and sign, ties, subnormals and both ends of each type."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(2000, dtype=np.uint32) << 15) + np.uint32(0x3F000000)
    edges = np.array([0, -0.0, 65504, 65519.99, 65520, 6e-8, 2.9e-8, 3.4e38, np.inf, -np.inf, 1e-45], np.float32)
    values = np.concatenate([bits.view(np.float32), ties.view(np.float32), edges])
    return values[~np.isnan(values)]


def test_bfloat16_is_stored_as_its_bits() -> None:
    expected = awkward().astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(store(awkward(), "bf16"), expected.view(np.uint16))
    np.testing.assert_array_equal(widen(expected), expected.astype(np.float32))
    np.testing.assert_array_equal(widen(store(awkward(), "bf16")), expected.astype(np.float32))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rounding_twice_is_rounding_once_and_nan_stays(precision: str) -> None:
    once = round_to(awkward(), precision)  # type: ignore[arg-type]
    np.testing.assert_array_equal(round_to(once, precision), once)  # type: ignore[arg-type]
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(round_to(nans, precision)).all()  # type: ignore[arg-type]


def test_other_types_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="type float64, expected float32, float16"):
        round_to(np.zeros(3), "fp16")
    with pytest.raises(ValueError, match="'int8', expected one of fp32, fp16, bf16"):
        store(np.zeros(3, np.float32), "int8")  # type: ignore[arg-type]


def test_codes_are_stored_as_their_bits() -> None:
    codes = np.delete(np.arange(256, dtype=np.uint8), [127, 255])  # NaN's two
    numbers = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)[None]
    stored = store_weight(numbers, "fp8")
    np.testing.assert_array_equal(stored.values[0], codes)
    np.testing.assert_array_equal(stored.scales, HALF_OF_CODE)
    np.testing.assert_array_equal(round_weight(numbers, "fp8"), numbers)


def test_each_row_has_the_scale_that_makes_its_largest_the_largest_there_is() -> None:
    weight = np.random.default_rng(2).standard_normal((6, 50)).astype(np.float32)
    weight *= np.array([1e-30, 1e-3, 1, 0, 7, 1e30], np.float32)[:, None]
    stored = store_weight(weight, "fp8")
    assert stored.scales is not None
    assert stored.values.dtype == np.uint8
    assert stored.scales.dtype == np.float32
    largest = np.abs(weight).max(axis=1)
    np.testing.assert_allclose(
        stored.scales, np.where(largest > 0, largest / LARGEST["fp8"], 1) * HALF_OF_CODE, rtol=1e-6
    )
    assert ((stored.values & 127).max(axis=1)[[0, 1, 2, 4, 5]] == 126).all()  # 448
    assert not (stored.values[3] & 127).any()
    error = np.abs(round_weight(weight, "fp8") - weight)
    # Half of the last of three bits, and of the smallest number where values are smaller than the normal ones.
    assert (error <= np.maximum(np.abs(weight) / 16, largest[:, None] / LARGEST["fp8"] / 2**10) * (1 + 1e-5)).all()


def test_rounding_twice_is_rounding_once() -> None:
    weight = np.random.default_rng(3).standard_normal((20, 64)).astype(np.float32)
    once = round_weight(weight, "fp8")
    np.testing.assert_array_equal(store_weight(once, "fp8").values, store_weight(weight, "fp8").values)
    np.testing.assert_allclose(round_weight(once, "fp8"), once, rtol=3e-7)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_infinite_values_and_nan_are_refused(wrong: float) -> None:
    weight = np.ones((2, 3), np.float32)
    weight[1, 2] = wrong
    with pytest.raises(ValueError, match="found NaN or infinity among the weights"):
        store_weight(weight, "fp8")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_other_precisions_have_no_scales(precision: str) -> None:
    weight = np.random.default_rng(4).standard_normal((3, 5)).astype(np.float32)
    stored = store_weight(weight, precision)  # type: ignore[arg-type]
    assert stored.scales is None
    np.testing.assert_array_equal(stored.values, store(weight, precision))  # type: ignore[arg-type]
    np.testing.assert_array_equal(round_weight(weight, precision), round_to(weight, precision))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "fp8"])
def test_rows_are_padded_with_zeros_to_whole_patches(precision: WeightPrecision) -> None:
    operands = (
        Operand("weight", (3, 33), "weight"),
        Operand("whole", (3, 64), "weight"),
        Operand("bias", (5,), "float32"),
    )
    random = np.random.default_rng(5)
    arrays = {one.name: random.standard_normal(one.shape).astype(np.float32) for one in operands}
    (weight, whole, bias), scales = store_operands(operands, arrays, precision)
    np.testing.assert_array_equal(weight[:, :33], store_weight(arrays["weight"], precision).values)
    assert weight.shape == (3, 64)
    assert not weight[:, 33:].any()
    assert weight.flags.c_contiguous
    np.testing.assert_array_equal(whole, store_weight(arrays["whole"], precision).values)
    np.testing.assert_array_equal(bias, arrays["bias"])
    assert len(scales) == (2 if precision == "fp8" else 0)
