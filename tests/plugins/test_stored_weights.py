"""Weights of eight bits are the nearest there are, each row in a scale of its own."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from wavernn_trt.export.operators import Operand
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.rounding import FloatArray, round_to, store
from wavernn_trt.plugins.stored_weights import HALF_OF_CODE, LARGEST_CODE, round_weight, store_operands, store_weight


@pytest.fixture(scope="module")
def dtypes() -> ModuleType:
    module: ModuleType = pytest.importorskip("ml_dtypes", reason="another implementation of e4m3 to compare with")
    return module


def codes_of(values: FloatArray) -> FloatArray:
    """The codes of values whose scale is one: the largest number of e4m3 stands in front of them, and is taken off."""
    stored = store_weight(np.concatenate([[LARGEST_CODE], values])[None].astype(np.float32), "fp8")
    np.testing.assert_array_equal(stored.scales, HALF_OF_CODE)
    return stored.values[0, 1:]


def test_every_number_has_its_code(dtypes: ModuleType) -> None:
    codes = np.delete(np.arange(256, dtype=np.uint8), [127, 255])  # NaN's two
    numbers = codes.view(dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(codes_of(numbers), codes)
    np.testing.assert_array_equal(round_weight(numbers[None], "fp8")[0], numbers)


def test_what_lies_between_goes_to_the_nearest_and_ties_to_even(dtypes: ModuleType) -> None:
    numbers = np.arange(127, dtype=np.uint8).view(dtypes.float8_e4m3fn).astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / 2
    random = np.random.default_rng(1)
    some = random.choice([-1.0, 1.0], 20_000) * np.exp2(random.uniform(-12, np.log2(LARGEST_CODE), 20_000))
    near = np.concatenate([middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(500)), some])
    near = np.concatenate([near, -near]).astype(np.float32)
    np.testing.assert_array_equal(codes_of(near), near.astype(dtypes.float8_e4m3fn).view(np.uint8))


def test_each_row_has_the_scale_that_makes_its_largest_the_largest_there_is() -> None:
    weight = np.random.default_rng(2).standard_normal((6, 50)).astype(np.float32)
    weight *= np.array([1e-30, 1e-3, 1, 0, 7, 1e30], np.float32)[:, None]
    stored = store_weight(weight, "fp8")
    assert stored.scales is not None
    assert stored.values.dtype == np.uint8
    assert stored.scales.dtype == np.float32
    largest = np.abs(weight).max(axis=1)
    np.testing.assert_allclose(
        stored.scales, np.where(largest > 0, largest / LARGEST_CODE, 1) * HALF_OF_CODE, rtol=1e-6
    )
    assert ((stored.values & 127).max(axis=1)[[0, 1, 2, 4, 5]] == 126).all()  # 448
    assert not (stored.values[3] & 127).any()
    error = np.abs(round_weight(weight, "fp8") - weight)
    # Half of the last of three bits, and of the smallest number where values are smaller than the normal ones.
    assert (error <= np.maximum(np.abs(weight) / 16, largest[:, None] / LARGEST_CODE / 2**10) * (1 + 1e-5)).all()


def test_rounding_twice_is_rounding_once() -> None:
    weight = np.random.default_rng(3).standard_normal((20, 64)).astype(np.float32)
    once = round_weight(weight, "fp8")
    np.testing.assert_array_equal(store_weight(once, "fp8").values, store_weight(weight, "fp8").values)
    np.testing.assert_allclose(round_weight(once, "fp8"), once, rtol=3e-7)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(wrong: float) -> None:
    weight = np.ones((2, 3), np.float32)
    weight[1, 2] = wrong
    with pytest.raises(ValueError, match="found NaN or infinity, which fp8 cannot hold"):
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
