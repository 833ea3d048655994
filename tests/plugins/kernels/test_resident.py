"""The resident kernels follow the numpy reference wherever weights lie, and end where a block is missing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from gpu_comparisons import assert_same
from host_kernels import HostKernels, build_host_kernels
from kernel_cases import SequenceCase, small_shapes

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident import VARIANTS, plan_resident
from wavernn_trt.plugins.stalls import find_stall
from wavernn_trt.plugins.targets import DeviceProperties

SHAPES = small_shapes()
PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_kernels_follow_the_reference(host_kernels: HostKernels, model: str, precision: WeightPrecision) -> None:
    for batch, blocks, warps in ((1, 1, 1), (1, 3, 2), (3, 3, 1), (9, 1, 2), (40, 2, 1)):
        case = SequenceCase(SHAPES[model], precision, batch, steps=4)
        inputs = case.inputs()
        for kernel, variant in VARIANTS.items():
            groups = -(-batch // variant.streams)
            found = host_kernels.resident(case, inputs, kernel, groups=groups, blocks=blocks, warps=warps)
            assert case.excess(found, inputs) <= 1, (kernel, batch)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_may_stay_in_global_memory(host_kernels: HostKernels, precision: WeightPrecision) -> None:
    """All, some or none of them, and whether or not a lane may read a whole piece of a row at once."""
    shape = small_shapes(hidden_size=16, fc_size=24)["two layers, skip, values"]
    case = SequenceCase(shape, precision, steps=3)
    inputs = case.inputs()
    for kernel in VARIANTS:
        for share in (0.0, 0.5, 1.0):
            shared_bytes = shared_bytes_for(case, kernel, share)
            for misalign in (False, True):
                found = host_kernels.resident(case, inputs, kernel, shared_bytes=shared_bytes, misalign=misalign)
                assert case.excess(found, inputs) <= 1, (kernel, share, misalign)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", VARIANTS)
def test_lanes_of_a_warp_exchange_their_pieces(warps_of_32_lanes: HostKernels, kernel: str) -> None:
    """As many lanes as a GPU has: each holds its own piece of a patch."""
    for model, precision in (("one layer, labels", "fp8"), ("mixture", "bf16")):
        case = SequenceCase(SHAPES[model], precision, batch=5, steps=2)  # type: ignore[arg-type]
        inputs = case.inputs()
        found = warps_of_32_lanes.resident(case, inputs, kernel, blocks=1, warps=2)
        assert case.excess(found, inputs) <= 1, model


@pytest.mark.slow
def test_one_lane_computes_what_32_do(host_kernels: HostKernels, warps_of_32_lanes: HostKernels) -> None:
    case = SequenceCase(SHAPES["two layers, skip, values"], "fp16", batch=9, steps=2)
    inputs = case.inputs()
    expected = host_kernels.resident(case, inputs, "resident_stamped_16", warps=2)
    found = warps_of_32_lanes.resident(case, inputs, "resident_stamped_16", warps=2)
    assert_same(found, expected, "32 lanes")


@pytest.mark.slow
def test_no_bit_depends_on_how_words_are_polled(host_kernels: HostKernels, gxx: str, tmp_path: Path) -> None:
    serial = HostKernels(
        build_host_kernels(tmp_path / "serial.so", parts=["resident"], switches=["WAVERNN_POLLS_IN_FLIGHT=0"])
    )
    for kernel, model in itertools.product(VARIANTS, ("mixture", "two layers, skip, values")):
        shape = small_shapes(hidden_size=70, fc_size=45)[model]
        case = SequenceCase(shape, "bf16", batch=VARIANTS[kernel].streams - 2, steps=3)
        inputs = case.inputs()
        expected = serial.resident(case, inputs, kernel)
        assert_same(host_kernels.resident(case, inputs, kernel), expected, kernel)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_every_code_of_fp8_is_multiplied_as_the_number_it_stands_for(host_kernels: HostKernels, share: float) -> None:
    """A row of weights holds them all, and each stream reads another column of it."""
    dtypes = pytest.importorskip("ml_dtypes", reason="it has the numbers of the codes")
    numbers = np.arange(256, dtype=np.uint8).view(dtypes.float8_e4m3fn).astype(np.float32)
    numbers[np.isnan(numbers)] = 0.0
    case = SequenceCase(small_shapes(1, 256, classes=2)["two layers, no skip"], "fp8", batch=256, steps=1, window=1)
    inputs = {name: np.zeros_like(value) for name, value in case.inputs().items()}
    inputs["output_weight"] = np.stack([numbers, numbers[::-1]])
    inputs["conditioning"][:, 0, -256:] = np.eye(256)  # what the fully connected layer takes of it
    for misalign in (False, True):
        settings = {"groups": 16, "shared_bytes": shared_bytes_for(case, "resident_stamped_16", share, groups=16)}
        found = host_kernels.resident(case, inputs, "resident_stamped_16", misalign=misalign, **settings)
        np.testing.assert_array_equal(found["logits"][:, 0], inputs["output_weight"].T)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kernel", VARIANTS)
def test_a_missing_block_is_reported_and_all_others_end(host_kernels: HostKernels, kernel: str, batch: int) -> None:
    case = SequenceCase(SHAPES["one layer, labels"], "fp16", batch, steps=40)
    inputs = case.inputs()
    found = host_kernels.resident(case, inputs, kernel, blocks=2, waits=1000, absent=1)
    stall = find_stall(found["samples"])
    assert stall is not None
    assert stall.place in ("for operands of a product", "for logits or a sample", "at a barrier")
    assert stall.block == 0
    assert stall.step == -1 % 1024 or stall.step <= 1
    marked = [find_stall(found["samples"][[stream]]) is not None for stream in range(batch)]
    assert marked == [stream % 2 == 0 for stream in range(batch)]  # the absent block's streams have no sample at all
    again = host_kernels.resident(case, inputs, kernel, blocks=2)
    assert find_stall(again["samples"]) is None
    assert case.excess(again, inputs) <= 1


def shared_bytes_for(case: SequenceCase, kernel: str, share: float, groups: int = 1) -> int:
    """Shared memory that keeps that part of the weights, of two blocks of two warps."""
    device = DeviceProperties("host", 0, 2 * groups, 1 << 20)
    plan = plan_resident(case.shape, case.precision, case.batch, device, kernel, groups=groups, warps=2)
    weights = sum(matrix.resident * matrix.set_bytes for matrix in plan.matrices.values())
    return plan.shared_bytes - weights + int(share * weights)
