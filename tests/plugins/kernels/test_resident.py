"""The resident kernels, their own source on the host, are the numpy reference for every model, cut up in every way.

What the matrix instructions of a GPU compute is spelled out in kernels/patch.h; that they do is seen on a GPU only.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from gpu_comparisons import streams_of
from host_kernels import HostKernels, build_host_kernels
from kernel_cases import SINGLE_STEP_EXCESS, SequenceCase, small_shapes

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident import VARIANTS, plan_resident
from wavernn_trt.plugins.stalls import find_stall
from wavernn_trt.plugins.targets import DeviceProperties

SHAPES = small_shapes()
PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")
TIME = {"uniforms": 1, "frame_index": 1, "interpolation": 2}
"""Axis of the steps."""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_kernels_are_the_reference(host_kernels: HostKernels, model: str, precision: WeightPrecision) -> None:
    for batch, blocks, warps in ((1, 1, 1), (1, 3, 2), (3, 3, 1), (9, 1, 2), (40, 2, 1)):
        case = SequenceCase(SHAPES[model], precision, batch, steps=4)
        inputs = case.inputs()
        for kernel, variant in VARIANTS.items():
            groups = -(-batch // variant.streams)
            found = host_kernels.resident(case, inputs, kernel, groups=groups, blocks=blocks, warps=warps)
            assert case.excess(found, inputs) <= 1, (kernel, batch)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_operands_are_rounded_where_the_reference_rounds_them(
    host_kernels: HostKernels, model: str, precision: WeightPrecision
) -> None:
    case = SequenceCase(SHAPES[model], precision, batch=8, steps=1)
    inputs = case.inputs()
    for kernel in VARIANTS:
        assert case.excess(host_kernels.resident(case, inputs, kernel), inputs) <= SINGLE_STEP_EXCESS, kernel


@pytest.mark.parametrize("hidden_size", [1, 5, 8, 33, 130])
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_odd_sizes(host_kernels: HostKernels, model: str, hidden_size: int) -> None:
    """Of one step where sizes are large: two runs that are rounded differently drift apart."""
    shape = small_shapes(hidden_size, fc_size=hidden_size + 6, classes=11)[model]
    for kernel, precision in itertools.product(VARIANTS, PRECISIONS):
        case = SequenceCase(shape, precision, batch=5, steps=1 if hidden_size > 33 else 4)
        inputs = case.inputs()
        found = host_kernels.resident(case, inputs, kernel, blocks=3)
        assert case.excess(found, inputs) <= (SINGLE_STEP_EXCESS if case.steps == 1 else 1), kernel


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


@pytest.mark.parametrize("kernel", VARIANTS)
@pytest.mark.parametrize(("groups", "blocks", "batch"), [(2, 1, 3), (2, 3, 9), (3, 2, 2), (1, 40, 3), (1, 5, 1)])
def test_groups_of_blocks_share_the_streams_out(
    host_kernels: HostKernels, kernel: str, groups: int, blocks: int, batch: int
) -> None:
    """Also where a group has no stream, and a block no unit."""
    case = SequenceCase(SHAPES["two layers, skip, values"], "fp16", batch)
    inputs = case.inputs()
    found = host_kernels.resident(case, inputs, kernel, groups=groups, blocks=blocks, warps=1)
    assert case.excess(found, inputs) <= 1


@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
@pytest.mark.parametrize("kernel", VARIANTS)
def test_a_streams_bits_do_not_depend_on_its_neighbours_or_place(
    host_kernels: HostKernels, kernel: str, model: str
) -> None:
    batch = VARIANTS[kernel].streams
    case = SequenceCase(SHAPES[model], "fp16", batch)
    inputs = case.inputs()
    one = host_kernels.resident(case, inputs, kernel)
    order = np.random.default_rng(1).permutation(batch)
    moved = host_kernels.resident(case, streams_of(case, inputs, order), kernel, groups=2)
    alone = host_kernels.resident(
        dataclasses.replace(case, batch=1), streams_of(case, inputs, order[:1]), kernel, blocks=1
    )
    for name, value in one.items():
        axis = 1 if name == "hidden_out" else 0
        np.testing.assert_array_equal(moved[name], np.take(value, order, axis), err_msg=name)
        np.testing.assert_array_equal(alone[name], np.take(value, order[:1], axis), err_msg=name)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", ["one layer, labels", "two layers, skip, values"])
@pytest.mark.parametrize("kernel", VARIANTS)
def test_chunks_are_one_long_chunk(host_kernels: HostKernels, kernel: str, model: str, batch: int) -> None:
    """The state may be written to where it was read."""
    whole = SequenceCase(SHAPES[model], "bf16", batch, steps=7)
    inputs = whole.inputs()
    expected = host_kernels.resident(whole, inputs, kernel)
    for in_place in (False, True):
        state, parts = {name: inputs[name] for name in ("previous", "hidden")}, []
        for start, end in ((0, 1), (1, 3), (3, 7)):
            cut = {
                name: np.take(inputs[name], range(start, end), axis) for name, axis in TIME.items() if name in inputs
            }
            part = dataclasses.replace(whole, steps=end - start)
            found = host_kernels.resident(part, {**inputs, **cut, **state}, kernel, in_place=in_place)
            state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
            parts.append(found)
        for name in ("samples", "logits"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), expected[name])
        for name in ("previous_out", "hidden_out"):
            np.testing.assert_array_equal(parts[-1][name], expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", VARIANTS)
def test_exchanges_inside_a_warp(warps_of_32_lanes: HostKernels, kernel: str) -> None:
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
    for name, found in warps_of_32_lanes.resident(case, inputs, "resident_stamped_16", warps=2).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


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
        for name, found in host_kernels.resident(case, inputs, kernel).items():
            np.testing.assert_array_equal(found, expected[name], err_msg=name)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_every_code_of_fp8_is_multiplied_as_the_number_it_stands_for(host_kernels: HostKernels, share: float) -> None:
    """A row of weights holds them all, and each stream sees another one of its columns."""
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


@pytest.mark.parametrize("kernel", VARIANTS)
def test_nan_in_a_stream_is_visible_in_its_samples(host_kernels: HostKernels, kernel: str) -> None:
    """It does not change streams that are computed together."""
    case = SequenceCase(SHAPES["gaussian"], "fp16", steps=3)
    inputs = case.inputs()
    inputs["hidden"][0, 1] = np.nan
    found = host_kernels.resident(case, inputs, kernel)
    assert np.isnan(found["samples"][1]).all()
    assert np.isfinite(found["samples"][[0, 2]]).all()


@pytest.mark.parametrize("kernel", VARIANTS)
def test_indices_outside_of_their_tensors_read_the_nearest_row(host_kernels: HostKernels, kernel: str) -> None:
    case = SequenceCase(SHAPES["one layer, labels"], "fp16")
    inputs = case.inputs()
    most = np.iinfo(np.int32)
    inputs["previous"][:] = most.min, -1, most.max
    inputs["frame_index"][:, 1:4] = most.min, case.window, most.max
    valid = {
        "previous": np.clip(inputs["previous"], 0, case.shape.outputs - 1),
        "frame_index": np.clip(inputs["frame_index"], 0, case.window - 1),
    }
    expected = host_kernels.resident(case, {**inputs, **valid}, kernel)
    for name, found in host_kernels.resident(case, inputs, kernel).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


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
