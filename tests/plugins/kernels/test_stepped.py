"""The stepped kernels, their own source on the host, are the numpy reference: every kind of model, in every tile.

What the matrix instructions of a GPU compute is spelled out in kernels/patch.h; that they do is seen on a GPU only.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from gpu_comparisons import streams_of
from host_kernels import SOURCES, HostKernels, Sanitizer, build_host_kernels
from kernel_cases import SINGLE_STEP_EXCESS, SequenceCase, small_shapes
from kernel_processes import IMPORTS, replace_once, run_sanitized

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stepped import UNIT_TILES
from wavernn_trt.scripts.gpu.cases import Arrays

SHAPES = small_shapes()
PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_kernels_are_the_reference(host_kernels: HostKernels, model: str, precision: WeightPrecision) -> None:
    """Also where a tile is not full, and where there are several."""
    for batch, streams in ((1, 32), (67, 32), (9, 64), (130, 128)):
        case = SequenceCase(SHAPES[model], precision, batch, steps=3)
        inputs = case.inputs()
        assert case.excess(host_kernels.stepped(case, inputs, streams=streams), inputs) <= 1, (batch, streams)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_operands_are_rounded_where_the_reference_rounds_them(
    host_kernels: HostKernels, model: str, precision: WeightPrecision
) -> None:
    case = SequenceCase(SHAPES[model], precision, batch=8, steps=1)
    inputs = case.inputs()
    assert case.excess(host_kernels.stepped(case, inputs), inputs) <= SINGLE_STEP_EXCESS


@pytest.mark.parametrize("hidden_size", [1, 5, 16, 33, 64, 130])
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_odd_sizes(host_kernels: HostKernels, model: str, hidden_size: int) -> None:
    """Rows that end within a patch or a copy, one tile of units and several, more columns than slots."""
    shape = small_shapes(hidden_size, fc_size=hidden_size + 6, classes=11)[model]
    for precision in PRECISIONS:
        case = SequenceCase(shape, precision, batch=5, steps=1)
        inputs = case.inputs()
        for streams in (32, 128):
            found = host_kernels.stepped(case, inputs, streams=streams)
            assert case.excess(found, inputs) <= SINGLE_STEP_EXCESS, (precision, streams)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_may_be_unaligned(host_kernels: HostKernels, precision: WeightPrecision) -> None:
    case = SequenceCase(small_shapes(48, fc_size=80)["two layers, skip, values"], precision, batch=5, steps=2)
    inputs = case.inputs()
    expected = host_kernels.stepped(case, inputs)
    assert case.excess(expected, inputs) <= 1
    assert_same(host_kernels.stepped(case, inputs, misalign=True), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_no_bit_depends_on_the_tile(host_kernels: HostKernels, model: str, precision: WeightPrecision) -> None:
    """Nor on whether the state is written to where it is read; rows enough for the largest tile."""
    case = SequenceCase(small_shapes(70, fc_size=250, classes=201)[model], precision, batch=3, steps=2)
    inputs = case.inputs()
    expected = host_kernels.stepped(case, inputs, streams=32)
    for streams in UNIT_TILES:
        assert_same(host_kernels.stepped(case, inputs, streams=streams, in_place=True), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["one layer, labels", "mixture"])
def test_a_streams_bits_do_not_depend_on_its_neighbours_or_place(
    host_kernels: HostKernels, model: str, precision: WeightPrecision
) -> None:
    case = SequenceCase(SHAPES[model], precision, batch=41, steps=4)
    inputs = case.inputs()
    one = host_kernels.stepped(case, inputs)
    order = np.random.default_rng(1).permutation(41)
    moved = host_kernels.stepped(case, streams_of(case, inputs, order))
    assert_same(moved, {name: value[:, order] if name == "hidden_out" else value[order] for name, value in one.items()})
    few = dataclasses.replace(case, batch=3)
    alone = host_kernels.stepped(few, streams_of(case, inputs, order[:3]))
    assert_same(alone, {name: v[:, order[:3]] if name == "hidden_out" else v[order[:3]] for name, v in one.items()})


@pytest.mark.parametrize("model", ["one layer, labels", "two layers, no skip"])
def test_chunks_are_one_long_chunk(host_kernels: HostKernels, model: str) -> None:
    """Cut behind an odd and an even step."""
    whole = SequenceCase(SHAPES[model], "bf16", batch=5, steps=9)
    inputs = whole.inputs()
    expected = host_kernels.stepped(whole, inputs)
    state, samples = {name: inputs[name] for name in ("previous", "hidden")}, []
    for start, end in ((0, 3), (3, 5), (5, 9)):
        cut = {name: inputs[name][:, start:end] for name in ("uniforms", "frame_index")}
        part = dataclasses.replace(whole, steps=end - start)
        found = host_kernels.stepped(part, {**inputs, **cut, **state})
        state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
        samples.append(found["samples"])
    np.testing.assert_array_equal(np.concatenate(samples, axis=1), expected["samples"])
    np.testing.assert_array_equal(state["hidden"], expected["hidden_out"])


@pytest.mark.parametrize("classes", [1, 4, 37, 200])
def test_every_class_is_drawn_in_its_interval(host_kernels: HostKernels, classes: int) -> None:
    """The kernel's own logits decide: between the edges of a class, and just inside them."""
    shape = dataclasses.replace(SHAPES["one layer, labels"], outputs=classes)
    case = SequenceCase(shape, "fp16", batch=100, steps=1)
    inputs = case.inputs()
    inputs["uniforms"] = np.linspace(0, 1, 100, endpoint=False, dtype=np.float32).reshape(100, 1, 1)
    inputs["uniforms"][-1] = np.nextafter(np.float32(1), np.float32(0))
    found = host_kernels.stepped(case, inputs)
    likelihood = np.exp(found["logits"][:, 0].astype(np.float64))
    edges = np.cumsum(likelihood / likelihood.sum(axis=1, keepdims=True), axis=1)
    label, uniforms = found["samples"], inputs["uniforms"][:, :, 0]
    below = np.where(label > 0, np.take_along_axis(edges, np.maximum(label - 1, 0), 1), 0.0)
    assert (below - 1e-6 <= uniforms).all()
    assert (uniforms <= np.take_along_axis(edges, label, 1) + 1e-6).all()
    assert label[-1] == classes - 1


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
                expected = in_rows.stepped(case, inputs)
                for name, found in host_kernels.stepped(case, inputs).items():
                    np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_other_kernels_draw_the_same_classes_from_the_same_logits(host_kernels: HostKernels) -> None:
    """The likelihoods are whole numbers: who adds them up in what order does not matter."""
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


def test_nan_in_a_stream_is_visible_in_its_samples(host_kernels: HostKernels) -> None:
    case = SequenceCase(SHAPES["gaussian"], "fp16", steps=2)
    inputs = case.inputs()
    inputs["hidden"][0, 1] = np.nan
    found = host_kernels.stepped(case, inputs)
    assert np.isnan(found["samples"][1]).all()
    assert np.isfinite(found["samples"][[0, 2]]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "library"), [("thread", "libtsan.so"), ("address,undefined", "libasan.so")])
def test_kernels_run_clean(tmp_path: Path, gxx: str, sanitizer: Sanitizer, library: str) -> None:
    done = run_sanitized(tmp_path, gxx, sanitizer, library, EVERYTHING, copy_sources(tmp_path), parts=["stepped"])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "all as expected"


@pytest.mark.slow
def test_warps_of_32_lanes_are_the_reference(tmp_path: Path, gxx: str) -> None:
    """As a GPU has them, with the exchanges inside a warp. The draw takes more rounds than one."""
    library = build_host_kernels(tmp_path / "kernels.so", parts=["stepped"], lanes=32, sources=copy_sources(tmp_path))
    kernels = HostKernels(library)
    for model in ("one layer, labels", "mixture"):
        case = SequenceCase(small_shapes(classes=300)[model], "fp16", batch=9, steps=1)
        inputs = case.inputs()
        assert case.excess(kernels.stepped(case, inputs, streams=32), inputs) <= SINGLE_STEP_EXCESS, model


@pytest.mark.slow
def test_a_patch_that_is_read_too_early_changes_the_result(tmp_path: Path, gxx: str) -> None:
    sources = copy_sources(tmp_path)
    replace_once(sources / "stepped_product.h", "wait_for_copies<C::SLOTS - 2>();", "wait_for_copies<C::SLOTS - 1>();")
    kernels = HostKernels(build_host_kernels(tmp_path / "kernels.so", parts=["stepped"], sources=sources))
    case = SequenceCase(small_shapes(130)["one layer, labels"], "fp16", steps=1)
    inputs = case.inputs()
    assert case.excess(kernels.stepped(case, inputs, streams=32), inputs) > 1


@pytest.mark.slow
def test_a_missing_barrier_is_a_reported_race(tmp_path: Path, gxx: str) -> None:
    """Without the one between the copies of all warps and their products."""
    sources = copy_sources(tmp_path)
    replace_once(sources / "stepped_product.h", "        block.sync();  // all copies", "        // all copies")
    done = run_sanitized(tmp_path, gxx, "thread", "libtsan.so", EVERYTHING, sources, parts=["stepped"])
    assert done.returncode == 66, done.stdout + done.stderr[-2000:]
    assert "data race" in done.stderr


EVERYTHING = f"""{IMPORTS}
for model, hidden_size, batch, misalign in (
    ("one layer, labels", 130, 3, False), ("mixture", 7, 33, True), ("gaussian", 65, 3, True)
):
    case = SequenceCase(small_shapes(hidden_size)[model], "fp16", batch, steps=2)
    inputs = case.inputs()
    found = kernels.stepped(case, inputs, streams=32, misalign=misalign, in_place=True)
    assert case.excess(found, inputs) <= 1, model
print("all as expected")
"""


def copy_sources(folder: Path) -> Path:
    """The kernels' sources, host_stepped.cpp with the smallest tiles in fp16 alone: it is compiled quickly."""
    sources = shutil.copytree(SOURCES, folder / "kernels")
    calls = {
        "begin": "begin_stepped<Half>",
        "units_0_32": "stepped_units_0<Half, 2>",
        "units_1_32": "stepped_units_1<Half, 2>",
        "rows_64x32": "stepped_rows<Half, 2, 1>",
        "draw": "draw_step",
    }
    lines = ['#include "stepped.h"', "using namespace wavernn;"]
    for name, call in calls.items():
        lines.append(
            f'extern "C" int wavernn_stepped_{name}(\n'
            "    const SteppedArguments* a, int, int blocks, int warps, int bytes) {\n"
            f"    run_grid(blocks, warps, static_cast<std::size_t>(bytes), [&](const Block& b) {{ {call}(b, *a); }});\n"
            "    return 0;\n"
            "}"
        )
    (sources / "host_stepped.cpp").write_text("\n".join(lines) + "\n")
    return sources


def assert_same(found: Arrays, expected: Arrays) -> None:
    """Bit by bit."""
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
