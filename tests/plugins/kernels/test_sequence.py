"""The sequence kernel, its own source on the host, is the numpy reference: every kind of model, cut up in every way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gpu_comparisons import streams_of
from host_kernels import HostKernels
from kernel_cases import SINGLE_STEP_EXCESS, SequenceCase, small_shapes

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins.stalls import Stall, find_stall

SHAPES = small_shapes()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("model", SHAPES)
def test_kernel_is_the_reference(host_kernels: HostKernels, model: str, batch: int, precision: Precision) -> None:
    case = SequenceCase(SHAPES[model], precision, batch)
    inputs = case.inputs()
    for blocks, warps in ((1, 1), (3, 2)):
        assert case.excess(host_kernels.sequence(case, inputs, blocks=blocks, warps=warps), inputs) <= 1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("model", SHAPES)
def test_operands_are_rounded_where_the_reference_rounds_them(
    host_kernels: HostKernels, model: str, precision: Precision
) -> None:
    case = SequenceCase(SHAPES[model], precision, batch=9, steps=1)
    inputs = case.inputs()
    assert case.excess(host_kernels.sequence(case, inputs), inputs) <= SINGLE_STEP_EXCESS


@pytest.mark.parametrize("hidden_size", [1, 5, 16, 33])
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_odd_sizes(host_kernels: HostKernels, model: str, hidden_size: int) -> None:
    case = SequenceCase(small_shapes(hidden_size, fc_size=hidden_size + 6, classes=11)[model], "bf16", batch=5)
    inputs = case.inputs()
    assert case.excess(host_kernels.sequence(case, inputs, blocks=2, warps=2), inputs) <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shared_bytes", [4096, 3000, 2300])
def test_weights_may_stay_in_global_memory(host_kernels: HostKernels, shared_bytes: int, precision: Precision) -> None:
    case = SequenceCase(SHAPES["two layers, skip, values"], precision)
    inputs = case.inputs()
    for misalign in (False, True):
        found = host_kernels.sequence(case, inputs, shared_bytes=shared_bytes, misalign=misalign)
        assert case.excess(found, inputs) <= 1


@pytest.mark.parametrize(("groups", "blocks", "batch"), [(2, 1, 3), (2, 3, 9), (3, 2, 2), (1, 40, 3)])
def test_groups_of_blocks_share_the_streams_out(
    host_kernels: HostKernels, groups: int, blocks: int, batch: int
) -> None:
    """Also where a group has no stream, and a block no unit."""
    case = SequenceCase(SHAPES["two layers, skip, values"], "fp16", batch)
    inputs = case.inputs()
    assert case.excess(host_kernels.sequence(case, inputs, groups=groups, blocks=blocks), inputs) <= 1


@pytest.mark.parametrize("model", SHAPES)
def test_exchanges_inside_a_warp(warps_of_lanes: HostKernels, model: str) -> None:
    for batch in (1, 9):
        case = SequenceCase(SHAPES[model], "fp16", batch, steps=2)
        inputs = case.inputs()
        assert case.excess(warps_of_lanes.sequence(case, inputs, blocks=1, warps=2), inputs) <= 1


@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_a_streams_bits_do_not_depend_on_its_neighbours_or_place(host_kernels: HostKernels, model: str) -> None:
    case = SequenceCase(SHAPES[model], "fp16", batch=11, steps=8)
    inputs = case.inputs()
    one = host_kernels.sequence(case, inputs)
    order = np.random.default_rng(1).permutation(11)
    moved = host_kernels.sequence(case, streams_of(case, inputs, order))
    for name, value in one.items():
        taken = value[:, order] if name == "hidden_out" else value[order]
        np.testing.assert_array_equal(moved[name], taken, err_msg=name)


def test_chunks_are_one_long_chunk(host_kernels: HostKernels) -> None:
    whole = SequenceCase(SHAPES["one layer, labels"], "bf16", steps=7)
    inputs = whole.inputs()
    expected = host_kernels.sequence(whole, inputs)
    state, samples = {name: inputs[name] for name in ("previous", "hidden")}, []
    for start, end in ((0, 3), (3, 7)):
        cut = {name: inputs[name][:, start:end] for name in ("uniforms", "frame_index")}
        part = dataclasses.replace(whole, steps=end - start)
        found = host_kernels.sequence(part, {**inputs, **cut, **state})
        state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
        samples.append(found["samples"])
    np.testing.assert_array_equal(np.concatenate(samples, axis=1), expected["samples"])
    np.testing.assert_array_equal(state["hidden"], expected["hidden_out"])


def test_every_class_is_drawn_in_its_interval(host_kernels: HostKernels) -> None:
    """The kernel's own logits decide: between the edges of a class, and just inside them."""
    case = SequenceCase(SHAPES["one layer, labels"], batch=200, steps=1)
    inputs = case.inputs()
    inputs["uniforms"] = np.linspace(0, 1, 200, endpoint=False, dtype=np.float32).reshape(200, 1, 1)
    inputs["uniforms"][-1] = np.nextafter(np.float32(1), np.float32(0))
    found = host_kernels.sequence(case, inputs, warps=3)
    likelihood = np.exp(found["logits"][:, 0].astype(np.float64))
    edges = np.cumsum(likelihood / likelihood.sum(axis=1, keepdims=True), axis=1)
    label = found["samples"]
    below = np.where(label > 0, np.take_along_axis(edges, np.maximum(label - 1, 0), 1), 0.0)
    uniforms = inputs["uniforms"][:, :, 0]
    assert (below - 1e-6 <= uniforms).all()
    assert (uniforms <= np.take_along_axis(edges, label, 1) + 1e-6).all()
    assert label[-1] == case.shape.outputs - 1
    assert len(np.unique(label)) > case.shape.outputs // 2


def test_indices_outside_of_their_tensors_read_the_nearest_row(host_kernels: HostKernels) -> None:
    """TensorRT times plugins on inputs that it makes up."""
    case = SequenceCase(SHAPES["one layer, labels"])
    inputs = case.inputs()
    most = np.iinfo(np.int32)
    inputs["previous"][:] = most.min, -1, most.max
    inputs["frame_index"][:, 1:4] = most.min, case.window, most.max
    valid = {
        "previous": np.clip(inputs["previous"], 0, case.shape.outputs - 1),
        "frame_index": np.clip(inputs["frame_index"], 0, case.window - 1),
    }
    expected = host_kernels.sequence(case, {**inputs, **valid})
    for name, found in host_kernels.sequence(case, inputs).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_nan_in_a_stream_is_visible_in_its_samples(host_kernels: HostKernels) -> None:
    case = SequenceCase(SHAPES["gaussian"], steps=2)
    inputs = case.inputs()
    inputs["hidden"][0, 1] = np.nan
    found = host_kernels.sequence(case, inputs)
    assert np.isnan(found["samples"][1]).all()
    assert np.isfinite(found["samples"][[0, 2]]).all()


def test_a_missing_block_is_reported_and_all_others_end(host_kernels: HostKernels) -> None:
    case = SequenceCase(SHAPES["one layer, labels"], "fp16", batch=4, steps=40)
    inputs = case.inputs()
    found = host_kernels.sequence(case, inputs, blocks=3, waits=1000, absent=1)
    assert find_stall(found["samples"]) in [Stall("at a barrier", block, -1 % 1024) for block in (0, 1)]
    marked = [find_stall(found["samples"][[stream]]) is not None for stream in range(4)]
    assert marked == [True, True, False, True]  # the stream of the absent block has no sample at all
    assert case.excess(host_kernels.sequence(case, inputs, blocks=3), inputs) <= 1
