"""The gru_cell kernel, built for this machine, follows the numpy reference at odd sizes and in every precision."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernels import HostKernels
from kernel_cases import GruCase

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins.gru_cell import gru_arguments, plan_gru
from wavernn_trt.plugins.stored_weights import round_to

SIZES = [(1, 1), (1, 7), (3, 16), (4, 5), (5, 33), (9, 40), (2, 1030)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("batch", "size"), SIZES)
def test_kernel_follows_the_reference(host_kernels: HostKernels, batch: int, size: int, precision: Precision) -> None:
    case = GruCase(batch, size, precision)
    assert case.excess(host_kernels.gru_cell(case)) <= 1
    assert case.excess(host_kernels.gru_cell(case, warps=3)) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_may_be_unaligned(host_kernels: HostKernels, precision: Precision) -> None:
    case = GruCase(3, 16, precision)
    assert case.excess(host_kernels.gru_cell(case, misalign=True)) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sums_over_the_lanes_of_a_warp(warps_of_lanes: HostKernels, precision: Precision) -> None:
    assert warps_of_lanes.lanes > 8  # more than the largest tile has streams
    for batch in (1, 3, 9):
        case = GruCase(batch, 21, precision)
        assert case.excess(warps_of_lanes.gru_cell(case, warps=2)) <= 1


def test_a_streams_bits_do_not_depend_on_its_place(host_kernels: HostKernels) -> None:
    case = GruCase(9, 33, "fp16")
    one = host_kernels.gru_cell(case)
    inputs = case.inputs()
    order = np.random.default_rng(0).permutation(9)
    moved = {**inputs, "gates": inputs["gates"][order], "hidden": inputs["hidden"][order]}
    np.testing.assert_array_equal(host_kernels.gru_cell(case, inputs=moved), one[order])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_kernels_round_as_the_reference_does(host_kernels: HostKernels, precision: Precision) -> None:
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(4000, dtype=np.uint32) << 12) + np.uint32(0x33000000)
    edges = np.array([0, -0.0, 65504, 65519.99, 65520, 6e-8, 2.9e-8, 2.98023e-8, 3.4e38, np.inf, -np.inf], np.float32)
    values = np.concatenate([bits.view(np.float32), ties.view(np.float32), edges])
    values = values[~np.isnan(values)]
    np.testing.assert_array_equal(host_kernels.round(values, precision), round_to(values, precision))
    assert np.isnan(host_kernels.round(np.array([np.nan], np.float32), precision)).all()


def test_a_cell_in_place_is_refused() -> None:
    plan = plan_gru(8, "fp32", 1)
    with pytest.raises(ValueError, match="the same address, expected two buffers"):
        gru_arguments(8, plan, 1, [1, 2, 3, 4, 2])
    with pytest.raises(ValueError, match="found 4 addresses, expected 5"):
        gru_arguments(8, plan, 1, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="found 8 units and 0 streams"):
        plan_gru(8, "fp32", 0)


def test_every_unit_and_stream_has_a_warp() -> None:
    for hidden_size in (1, 8, 9, 896):
        for batch in (1, 2, 4, 5, 8, 9, 64):
            plan = plan_gru(hidden_size, "fp16", batch)
            assert plan.unit_blocks * 8 >= hidden_size
            assert plan.grid // plan.unit_blocks * plan.tile >= batch
            assert plan.shared_bytes <= 48 * 1024  # what a block has without asking
