"""Emulated fp16 and bf16 are the real ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.plugins.rounding import product, round_to, store, widen


def awkward() -> NDArray[np.float32]:
    """Numbers of every size and sign, ties, subnormals and both ends of each type."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(2000, dtype=np.uint32) << 15) + np.uint32(0x3F000000)
    edges = np.array([0, -0.0, 65504, 65519.99, 65520, 6e-8, 2.9e-8, 3.4e38, np.inf, -np.inf, 1e-45], np.float32)
    values = np.concatenate([bits.view(np.float32), ties.view(np.float32), edges])
    return values[~np.isnan(values)]


def test_bfloat16_rounds_as_ml_dtypes_does() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the other implementation of bfloat16")
    expected = awkward().astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(store(awkward(), "bf16"), expected.view(np.uint16))
    np.testing.assert_array_equal(widen(expected), expected.astype(np.float32))
    np.testing.assert_array_equal(widen(store(awkward(), "bf16")), expected.astype(np.float32))


def test_half_rounds_as_pytorch_does() -> None:
    torch = pytest.importorskip("torch", reason="the other implementation of half precision")
    expected = torch.from_numpy(awkward()).half()
    np.testing.assert_array_equal(round_to(awkward(), "fp16"), expected.float().numpy())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rounding_twice_is_rounding_once_and_nan_stays(precision: str) -> None:
    once = round_to(awkward(), precision)  # type: ignore[arg-type]
    np.testing.assert_array_equal(round_to(once, precision), once)  # type: ignore[arg-type]
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(round_to(nans, precision)).all()  # type: ignore[arg-type]


def test_products_are_summed_in_float32() -> None:
    """Beyond 2048 a sum in half precision would lose every one that is added."""
    ones = np.ones((1, 4099), np.float32)
    assert product(ones, ones, "fp16").item() == 4099.0
    assert product(ones, ones, "bf16").item() == 4099.0
    assert product(ones * np.float32(1 + 2**-9), ones, "bf16").item() == 4099.0  # the operand is rounded
    assert product(ones * np.float32(1 + 2**-9), ones, "fp32").item() == 4107.005859375


def test_other_types_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="type float64, expected float32, float16"):
        round_to(np.zeros(3), "fp16")
    with pytest.raises(ValueError, match="'int8', expected one of fp32, fp16, bf16"):
        store(np.zeros(3, np.float32), "int8")  # type: ignore[arg-type]
