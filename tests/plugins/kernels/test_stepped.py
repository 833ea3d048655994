"""The stepped kernels follow the numpy reference, and no bit depends on the tile or the order of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu_comparisons import assert_same
from host_kernels import HostKernels, build_host_kernels
from kernel_cases import SINGLE_STEP_EXCESS, SequenceCase, small_shapes

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stepped import UNIT_TILES

SHAPES = small_shapes()
PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_kernels_follow_the_reference(host_kernels: HostKernels, model: str, precision: WeightPrecision) -> None:
    """Also where a tile is not full, and where there are several."""
    for batch, streams in ((1, 32), (67, 32), (9, 64), (130, 128)):
        case = SequenceCase(SHAPES[model], precision, batch, steps=3)
        inputs = case.inputs()
        assert case.excess(host_kernels.stepped(case, inputs, streams=streams), inputs) <= 1, (batch, streams)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_may_be_unaligned(host_kernels: HostKernels, precision: WeightPrecision) -> None:
    case = SequenceCase(small_shapes(48, fc_size=80)["two layers, skip, values"], precision, batch=5, steps=2)
    inputs = case.inputs()
    expected = host_kernels.stepped(case, inputs)
    assert case.excess(expected, inputs) <= 1
    assert_same(host_kernels.stepped(case, inputs, misalign=True), expected, "unaligned")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_no_bit_depends_on_the_tile(host_kernels: HostKernels, model: str, precision: WeightPrecision) -> None:
    """Nor on whether the state is written to where it is read; rows enough for the largest tile."""
    case = SequenceCase(small_shapes(70, fc_size=250, classes=201)[model], precision, batch=3, steps=2)
    inputs = case.inputs()
    expected = host_kernels.stepped(case, inputs, streams=32)
    for streams in UNIT_TILES:
        assert_same(host_kernels.stepped(case, inputs, streams=streams, in_place=True), expected, f"{streams}")


@pytest.mark.slow
def test_no_bit_depends_on_the_order_of_weights_in_memory(host_kernels: HostKernels, gxx: str, tmp_path: Path) -> None:
    """Of sizes that fill fragments and patches in part, and in whole."""
    in_rows = HostKernels(
        build_host_kernels(tmp_path / "rows.so", parts=["stepped"], switches=["WAVERNN_FRAGMENT_ORDER=0"])
    )
    for sizes in ((7, 10, 37), (70, 45, 20), (64, 64, 32)):
        for precision in ("fp16", "bf16", "fp8"):
            for model in ("two layers, skip, values", "one layer, labels"):
                case = SequenceCase(small_shapes(*sizes)[model], precision, batch=3, steps=2)  # type: ignore[arg-type]
                inputs = case.inputs()
                assert_same(host_kernels.stepped(case, inputs), in_rows.stepped(case, inputs), model)


def test_other_kernels_draw_the_same_classes_from_the_same_logits(host_kernels: HostKernels) -> None:
    """Likelihoods are whole numbers: their sum does not depend on the order."""
    shape = small_shapes(classes=200)["one layer, labels"]
    case = SequenceCase(shape, "fp16", batch=64, steps=1)
    inputs = case.inputs()
    inputs["hidden"][:] = 0  # then sums over states are exact
    one, other = (
        host_kernels.stepped(case, inputs),
        host_kernels.resident(case, inputs, "resident_stamped_16", groups=-(-case.batch // 16)),
    )
    same = (one["logits"] == other["logits"]).all(axis=(1, 2))
    np.testing.assert_array_equal(one["samples"][same], other["samples"][same])
    assert np.abs(one["samples"] - other["samples"]).max() == 0


@pytest.mark.slow
def test_warps_of_32_lanes_follow_the_reference(warps_of_32_lanes: HostKernels) -> None:
    """As a GPU has them, with exchanges inside a warp; a draw takes several rounds."""
    for model in ("one layer, labels", "mixture"):
        case = SequenceCase(small_shapes(classes=300)[model], "fp16", batch=9, steps=1)
        inputs = case.inputs()
        found = warps_of_32_lanes.stepped(case, inputs, streams=32)
        assert case.excess(found, inputs) <= SINGLE_STEP_EXCESS, model
