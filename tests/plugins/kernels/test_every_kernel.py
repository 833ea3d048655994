"""Rules that all kernels of a chunk keep: they follow the numpy reference, and a stream's bits are its own.

Each runs as its own source, built for this machine. What a GPU's matrix instructions compute is spelled out in
kernels/patch.h; that they do so is tested on a GPU only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from gpu_comparisons import assert_same, steps_of, streams_of
from host_kernels import HostKernels
from kernel_cases import SINGLE_STEP_EXCESS, SequenceCase, small_shapes

from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident import VARIANTS
from wavernn_trt.scripts.gpu.cases import Arrays

SHAPES = small_shapes()
KERNELS = ("sequence", *VARIANTS, "stepped")
IN_GROUPS = ("sequence", *VARIANTS)
"""Kernels whose blocks wait for each other."""


def precisions(kernel: str) -> tuple[WeightPrecision, ...]:
    """The precisions in which a kernel rounds its operands."""
    return ("fp16", "bf16") if kernel == "sequence" else ("fp16", "bf16", "fp8")


def groups_for(kernel: str, batch: int) -> int:
    """Fewest groups of blocks that take a batch."""
    return -(-batch // VARIANTS[kernel].streams) if kernel in VARIANTS else 1


def run(host: HostKernels, kernel: str, case: SequenceCase, inputs: Arrays, groups: int = 0, **settings: Any) -> Arrays:
    choice = Choice(kernel, groups or groups_for(kernel, case.batch))
    return host.run(case, inputs, choice, **settings)


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_operands_are_rounded_where_the_reference_rounds_them(
    host_kernels: HostKernels, kernel: str, model: str
) -> None:
    for precision in precisions(kernel):
        case = SequenceCase(SHAPES[model], precision, batch=8, steps=1)
        inputs = case.inputs()
        assert case.excess(run(host_kernels, kernel, case, inputs), inputs) <= SINGLE_STEP_EXCESS, precision


@pytest.mark.parametrize("hidden_size", [1, 5, 16, 33, 130])
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_odd_sizes_follow_the_reference(host_kernels: HostKernels, kernel: str, model: str, hidden_size: int) -> None:
    """Rows that end within a patch or a copy; one step where sizes are large, as differences of rounding grow."""
    shape = small_shapes(hidden_size, fc_size=hidden_size + 6, classes=11)[model]
    settings: list[dict[str, int]] = [{"blocks": 3}] if kernel in IN_GROUPS else [{"streams": 32}, {"streams": 128}]
    for precision in precisions(kernel):
        case = SequenceCase(shape, precision, batch=5, steps=1 if hidden_size > 33 else 4)
        inputs = case.inputs()
        for one in settings:
            excess = case.excess(run(host_kernels, kernel, case, inputs, **one), inputs)
            assert excess <= (SINGLE_STEP_EXCESS if case.steps == 1 else 1), (precision, one)


@pytest.mark.parametrize(("groups", "blocks", "batch"), [(2, 1, 3), (2, 3, 9), (3, 2, 2), (1, 40, 3)])
@pytest.mark.parametrize("kernel", IN_GROUPS)
def test_groups_of_blocks_divide_the_streams(
    host_kernels: HostKernels, kernel: str, groups: int, blocks: int, batch: int
) -> None:
    """Also where a group has no stream, and a block no unit."""
    case = SequenceCase(SHAPES["two layers, skip, values"], "fp16", batch)
    inputs = case.inputs()
    found = run(host_kernels, kernel, case, inputs, groups, blocks=blocks, warps=1)
    assert case.excess(found, inputs) <= 1


@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
@pytest.mark.parametrize(
    ("kernel", "batch"), [("sequence", 11), *((k, v.streams) for k, v in VARIANTS.items()), ("stepped", 41)]
)
def test_a_streams_bits_do_not_depend_on_its_neighbours_or_place(
    host_kernels: HostKernels, kernel: str, batch: int, model: str
) -> None:
    case = SequenceCase(SHAPES[model], "fp16", batch, steps=4)
    inputs = case.inputs()
    together = run(host_kernels, kernel, case, inputs)
    order = np.random.default_rng(1).permutation(batch)
    for some, groups in ((order, 2), (order[:3], 1), (order[:1], 1)):
        part = dataclasses.replace(case, batch=len(some))
        found = run(host_kernels, kernel, part, streams_of(case, inputs, some), groups)
        expected = {name: np.take(value, some, 1 if name == "hidden_out" else 0) for name, value in together.items()}
        assert_same(found, expected, f"streams {some}")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("model", ["one layer, labels", "two layers, skip, values"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_chunks_are_one_long_chunk(host_kernels: HostKernels, kernel: str, model: str, in_place: bool) -> None:
    """Cut behind odd and even steps; the state may be written to where it was read."""
    settings = {} if kernel == "sequence" else {"in_place": in_place}
    for batch in (1, 3):
        whole = SequenceCase(SHAPES[model], "bf16", batch, steps=9)
        inputs = whole.inputs()
        expected = run(host_kernels, kernel, whole, inputs)
        state, parts = {name: inputs[name] for name in ("previous", "hidden")}, []
        for start, end in ((0, 1), (1, 3), (3, 9)):
            part = dataclasses.replace(whole, steps=end - start)
            found = run(host_kernels, kernel, part, {**steps_of(whole, inputs, start, end), **state}, **settings)
            state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
            parts.append(found)
        for name in ("samples", "logits"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), expected[name])
        for name in ("previous_out", "hidden_out"):
            np.testing.assert_array_equal(parts[-1][name], expected[name])


@pytest.mark.parametrize("classes", [1, 37, 200])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_class_is_drawn_in_its_interval(host_kernels: HostKernels, kernel: str, classes: int) -> None:
    """As the kernel's own logits define it, up to the largest random number below 1."""
    shape = dataclasses.replace(SHAPES["one layer, labels"], outputs=classes)
    case = SequenceCase(shape, "fp16", batch=100, steps=1)
    inputs = case.inputs()
    inputs["uniforms"] = np.linspace(0, 1, 100, endpoint=False, dtype=np.float32).reshape(100, 1, 1)
    inputs["uniforms"][-1] = np.nextafter(np.float32(1), np.float32(0))
    found = run(host_kernels, kernel, case, inputs)
    likelihood = np.exp(found["logits"][:, 0].astype(np.float64))
    edges = np.cumsum(likelihood / likelihood.sum(axis=1, keepdims=True), axis=1)
    label, uniforms = found["samples"], inputs["uniforms"][:, :, 0]
    below = np.where(label > 0, np.take_along_axis(edges, np.maximum(label - 1, 0), 1), 0.0)
    assert (below - 1e-6 <= uniforms).all()
    assert (uniforms <= np.take_along_axis(edges, label, 1) + 1e-6).all()
    assert label[-1] == classes - 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_indices_outside_of_their_tensors_read_the_nearest_row(host_kernels: HostKernels, kernel: str) -> None:
    """TensorRT times plugins on inputs that it makes up."""
    case = SequenceCase(SHAPES["one layer, labels"], "fp16")
    inputs = case.inputs()
    most = np.iinfo(np.int32)
    inputs["previous"][:] = most.min, -1, most.max
    inputs["frame_index"][:, 1:4] = most.min, case.window, most.max
    valid = {
        "previous": np.clip(inputs["previous"], 0, case.shape.outputs - 1),
        "frame_index": np.clip(inputs["frame_index"], 0, case.window - 1),
    }
    expected = run(host_kernels, kernel, case, {**inputs, **valid})
    assert_same(run(host_kernels, kernel, case, inputs), expected, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_in_a_stream_is_visible_in_its_samples_alone(host_kernels: HostKernels, kernel: str) -> None:
    case = SequenceCase(SHAPES["gaussian"], "fp16", steps=3)
    inputs = case.inputs()
    inputs["hidden"][0, 1] = np.nan
    found = run(host_kernels, kernel, case, inputs)
    assert np.isnan(found["samples"][1]).all()
    assert np.isfinite(found["samples"][[0, 2]]).all()
