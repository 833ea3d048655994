"""Rounding to the grids: the nearest number, ties to even, clipped beyond; and PyTorch's rounding is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.grids import channel_scales, encode, encode_weight, round_activations, round_weight
from wavernn_trt.export.quantization import GRIDS, LARGEST, Grid, Product

PRODUCTS = {
    "int8": Product("int8", 1.7),
    "int8 weights": Product("int8", weights_only=True),
    "fp8": Product("fp8", 1.7),
    "fp8 weights": Product("fp8", weights_only=True),
    "fp16": Product("fp16"),
    "bf16": Product("bf16"),
}


def numbers(grid: Grid) -> NDArray[np.float64]:
    """All finite numbers of a scaled grid with scale one, in order."""
    if grid == "int8":
        return np.arange(-128, 128, dtype=np.float64)
    codes = np.arange(127)  # 127 is NaN
    exponent, mantissa = codes >> 3, codes & 7
    positive = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return np.concatenate([-positive[:0:-1], positive])


@pytest.mark.parametrize("grid", LARGEST)
def test_numbers_of_the_grid_stay_and_others_go_to_the_nearest(grid: Grid) -> None:
    known = numbers(grid)
    np.testing.assert_array_equal(encode(known, 1.0, grid).astype(np.float64), known)
    values = np.random.default_rng(0).uniform(known[0], known[-1], 20_000).astype(np.float32)
    found = encode(values, 1.0, grid).astype(np.float64)
    assert set(found) <= set(known)
    nearest = np.abs(values.astype(np.float64)[:, None] - known).min(axis=1)
    np.testing.assert_array_equal(np.abs(found - values), nearest)


@pytest.mark.parametrize("grid", LARGEST)
def test_ties_go_to_the_even_code(grid: Grid) -> None:
    known = numbers(grid)
    middles = (known[1:] + known[:-1]) / 2
    found = encode(middles, 1.0, grid)
    codes = found.astype(np.int64) if grid == "int8" else found.view(np.uint8)
    assert not (codes & 1).any()
    assert (np.abs(found.astype(np.float64) - middles) == (known[1:] - known[:-1]) / 2).all()


def test_values_beyond_the_grid_are_clipped() -> None:
    far = np.array([-1e30, -200, 200, 1e30])
    np.testing.assert_array_equal(encode(far, 1.0, "int8"), [-128, -128, 127, 127])
    np.testing.assert_array_equal(encode(far * 3, 1.0, "fp8").astype(float), [-448, -448, 448, 448])
    largest = PRODUCTS["int8"].scale * 127
    assert round_activations(np.array([5.0]), PRODUCTS["int8"])[0] == pytest.approx(largest, rel=1e-6)
    assert round_activations(np.array([5.0]), PRODUCTS["fp8"])[0] == pytest.approx(1.7, rel=1e-6)


@pytest.mark.parametrize("grid", LARGEST)
def test_a_channel_s_largest_weight_is_the_grid_s_largest(grid: Grid) -> None:
    weight = np.random.default_rng(1).standard_normal((5, 40)) * np.array([1e-20, 1e-3, 0, 1, 1e20])[:, None]
    codes, scales = encode_weight(weight, grid)
    assert (codes.shape, scales.shape) == (weight.shape, (5,))
    largest = np.abs(codes.astype(np.float64)).max(axis=1)
    np.testing.assert_array_equal(largest, np.where(np.any(weight, axis=1), LARGEST[grid], 0))
    assert scales[2] == 1  # of a channel of zeros: it must not divide by zero
    assert (channel_scales(weight, grid) > 0).all()


@pytest.mark.parametrize("grid", LARGEST)
def test_a_channel_too_small_for_a_scale_is_one_of_zeros(grid: Grid) -> None:
    """A scale of zero would make NaN of it, and one that is subnormal something else on every machine."""
    tiny = np.finfo(np.float32).tiny
    weight = np.array([[1e-44, 0], [-tiny, tiny], [2 * tiny * LARGEST[grid], 0]], np.float32)
    codes, scales = encode_weight(weight, grid)
    np.testing.assert_array_equal(scales[:2], 1)
    assert (scales >= tiny).all()
    np.testing.assert_array_equal(codes.astype(np.float32), [[0, 0], [0, 0], [LARGEST[grid], 0]])


@pytest.mark.parametrize("grid", LARGEST)
def test_rounding_a_rounded_weight_gives_the_same_codes(grid: Grid) -> None:
    product = Product(grid, weights_only=True)
    random = np.random.default_rng(2)
    weight = random.standard_normal((300, 33)) * np.exp2(random.uniform(-20, 20, 300))[:, None]
    codes, _ = encode_weight(weight, grid)
    once = round_weight(weight, product)
    np.testing.assert_array_equal(encode_weight(once, grid)[0].astype(np.float32), codes.astype(np.float32))
    np.testing.assert_allclose(round_weight(once, product), once, rtol=3e-7)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(grid: Grid, wrong: float) -> None:
    weight = np.ones((2, 3), np.float32)
    weight[1, 1] = wrong
    with pytest.raises(ValueError, match="found NaN or infinity among the weights"):
        round_weight(weight, Product(grid, weights_only=True))


def test_weights_that_are_infinite_in_float16_are_refused() -> None:
    weight = np.array([[1.0, -7e4]], np.float32)
    with pytest.raises(ValueError, match="found weights up to 70000, which fp16 cannot hold"):
        round_weight(weight, PRODUCTS["fp16"])
    assert np.isfinite(round_weight(weight, PRODUCTS["bf16"])).all()


def test_activations_are_not_changed_where_only_weights_are_rounded() -> None:
    values = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)
    assert round_activations(values, PRODUCTS["int8 weights"]) is values


def hard_values(product: Product) -> NDArray[np.float32]:
    """Values of all sizes, ties and their neighbours, and what is clipped."""
    random = np.random.default_rng(4)
    some = random.standard_normal(5000) * np.exp2(random.uniform(-20, 3, 5000))
    scale = product.scale if product.bound is not None else 1.0
    ties = (np.arange(-300, 300) + 0.5) * scale
    values = np.concatenate([some, ties, np.nextafter(ties, 0), np.nextafter(ties, 9), [0, -0.0, 1e4, -1e4]])
    return values.astype(np.float32).reshape(-1, 4)


@pytest.mark.parametrize("name", PRODUCTS)
def test_pytorch_rounds_as_numpy_does(name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="the reference executor rounds with PyTorch")
    from wavernn_trt.export.families.rounding import RoundedActivations

    product = PRODUCTS[name]
    values = hard_values(product)
    expected = values.copy()
    expected[:, :3] = round_activations(values[:, :3], product)
    for kind in (torch.float32, torch.float64):
        found = RoundedActivations(product, 3)(torch.from_numpy(values).to(kind))
        assert found.dtype == kind
        np.testing.assert_array_equal(found.float().numpy(), expected)
