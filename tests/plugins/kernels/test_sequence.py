"""The sequence kernel follows the numpy reference for every kind of model, and ends where a block is missing."""

from __future__ import annotations

import pytest
from host_kernels import HostKernels
from kernel_cases import SequenceCase, small_shapes

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins.stalls import Stall, find_stall

SHAPES = small_shapes()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("model", SHAPES)
def test_the_kernel_follows_the_reference(
    host_kernels: HostKernels, model: str, batch: int, precision: Precision
) -> None:
    case = SequenceCase(SHAPES[model], precision, batch)
    inputs = case.inputs()
    for blocks, warps in ((1, 1), (3, 2)):
        assert case.excess(host_kernels.sequence(case, inputs, blocks=blocks, warps=warps), inputs) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shared_bytes", [4096, 3000, 2300])
def test_weights_may_stay_in_global_memory(host_kernels: HostKernels, shared_bytes: int, precision: Precision) -> None:
    case = SequenceCase(SHAPES["two layers, skip, values"], precision)
    inputs = case.inputs()
    for misalign in (False, True):
        found = host_kernels.sequence(case, inputs, shared_bytes=shared_bytes, misalign=misalign)
        assert case.excess(found, inputs) <= 1


@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_lanes_of_a_warp_exchange_their_sums(warps_of_lanes: HostKernels, model: str) -> None:
    for batch in (1, 9):
        case = SequenceCase(SHAPES[model], "fp16", batch, steps=2)
        inputs = case.inputs()
        assert case.excess(warps_of_lanes.sequence(case, inputs, blocks=1, warps=2), inputs) <= 1


def test_a_missing_block_is_reported_and_all_others_end(host_kernels: HostKernels) -> None:
    case = SequenceCase(SHAPES["one layer, labels"], "fp16", batch=4, steps=40)
    inputs = case.inputs()
    found = host_kernels.sequence(case, inputs, blocks=3, waits=1000, absent=1)
    assert find_stall(found["samples"]) in [Stall("at a barrier", block, -1 % 1024) for block in (0, 1)]
    marked = [find_stall(found["samples"][[stream]]) is not None for stream in range(4)]
    assert marked == [True, True, False, True]  # the stream of the absent block has no sample at all
    assert case.excess(host_kernels.sequence(case, inputs, blocks=3), inputs) <= 1
