"""The native decoder computes what the numpy reference does, and refuses what it cannot."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from kernel_cases import small_shapes
from native_cases import ARITHMETICS, Arithmetic, NativeCase, fed_back, some_steps

from wavernn_trt.export.grids import encode_weight
from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.cpu.decoder import NativeDecoder
from wavernn_trt.plugins.cpu.library import PATH_VARIABLE, NativeLibrary, NativeLibraryError
from wavernn_trt.plugins.reference import decode_sequence

SHAPES = small_shapes()
SIZES = [(8, 10, 2), (13, 37, 30), (100, 300, 256), (129, 20, 37)]
"""Hidden units, width of fully connected layers, classes."""


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", SHAPES)
def test_decoder_is_the_reference(
    library: NativeLibrary, model: str, size: tuple[int, int, int], arithmetic: Arithmetic
) -> None:
    case = NativeCase(small_shapes(*size)[model], arithmetic)
    found = case.open(library).decode(case.inputs, logits=True)
    assert case.excess(found) <= 1


@pytest.mark.parametrize("model", ["one layer, labels", "two layers, skip, values"])
def test_large_models_are_the_reference(library: NativeLibrary, model: str) -> None:
    case = NativeCase(small_shapes(1024, 300, 1024)[model], batch=2, steps=2)
    found = case.open(library).decode(case.inputs, threads=2, logits=True)
    assert case.excess(found) <= 1


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("model", SHAPES)
def test_every_operation_is_as_documented(library: NativeLibrary, model: str, arithmetic: Arithmetic) -> None:
    """Equal bits, also of the rounding of weights and activations."""
    for size, steps in (((7, 10, 37), 8), ((45, 19, 64), 2)):
        case = NativeCase(small_shapes(*size)[model], arithmetic, steps=steps)
        case.inputs["hidden"][0, 0, 0] = 1  # the largest, whose code is the largest
        case.inputs["output_weight"][:2] = [[1e-37], [0]]  # too small for a scale of their own
        case.inputs["output_bias"][:2] = 0
        assert_equal(case.open(library).decode(case.inputs, logits=True), case.exact(library).decode(case.inputs))


@pytest.mark.parametrize("arithmetic", ["int8", "int8 x int8"])
def test_products_of_integers_are_exact_in_large_models(library: NativeLibrary, arithmetic: Arithmetic) -> None:
    case = NativeCase(small_shapes(1024, 300, 256)["two layers, skip, values"], arithmetic, batch=2, steps=1)
    assert_equal(case.open(library).decode(case.inputs, logits=True), case.exact(library).decode(case.inputs))


def test_sums_of_integers_do_not_overflow(library: NativeLibrary) -> None:
    """Activations have fewer bits where 2,100 of the largest weights and activations would leave 32 bits."""
    case = NativeCase(small_shapes(5, 2100, 3)["one layer, labels"], "int8", steps=1)
    inputs = case.inputs
    inputs["fc_weight_0"][:] = 0
    inputs["fc_bias_0"][:] = 1
    inputs["output_weight"][:] = [[1], [-1], [0.5]]
    inputs["output_bias"][:] = 0
    found = case.open(library).decode(inputs, logits=True)
    np.testing.assert_allclose(found["logits"][:, 0], [[2100, -2100, 1050]] * 3, rtol=1e-6)
    assert_equal(found, case.exact(library).decode(inputs))


@pytest.mark.parametrize("model", SHAPES)
def test_activations_in_int16_cost_little(library: NativeLibrary, model: str) -> None:
    case = NativeCase(small_shapes(64, 50)[model], "int8")
    rounded = dict(case.inputs)
    for name in set(MATRICES) & set(rounded):
        codes, scales = encode_weight(rounded[name], "int8")
        rounded[name] = codes * scales[:, None]
    forced = np.zeros((3, 4), rounded["previous"].dtype)
    found = case.open(library).decode(case.inputs, forced=forced, logits=True)
    expected = decode_sequence(case.shape, rounded, "fp32", forced)
    assert 0 < np.abs(found["logits"] - expected["logits"]).max() < 5e-4


def test_each_matrix_has_its_own_precision(library: NativeLibrary) -> None:
    case = NativeCase(SHAPES["two layers, skip, values"])
    fp32 = NativeCase(case.shape).open(library).decode(case.inputs, logits=True)
    for name in MATRICES:
        arguments = (case.shape, case.inputs, fed_back(case.shape), {name: "int8"}, {name: 0.01})
        one = NativeDecoder(*arguments, library=library).decode(case.inputs, logits=True)
        exact = dataclasses.replace(case.exact(library), precisions={name: "int8"}, activation_scales={name: 0.01})
        assert_equal(one, exact.decode(case.inputs))
        assert (one["logits"] != fp32["logits"]).any()


@pytest.mark.parametrize("arithmetic", ["fp32", "int8"])
@pytest.mark.parametrize("model", SHAPES)
def test_forced_inputs_are_the_input_of_each_step(library: NativeLibrary, model: str, arithmetic: Arithmetic) -> None:
    case = NativeCase(SHAPES[model], arithmetic)
    decoder = case.open(library)
    free = decoder.decode(case.inputs, logits=True)
    drawn = free["samples"] if (values := fed_back(case.shape)) is None else values[free["samples"]]
    forced = np.concatenate([case.inputs["previous"][:, None], drawn[:, :-1]], axis=1)
    damaged = {**case.inputs, "previous": np.ones_like(case.inputs["previous"])}
    for threads in (1, 3):
        assert_equal(decoder.decode(damaged, threads=threads, forced=forced, logits=True), free)
    no_uniforms = {**damaged, "uniforms": np.zeros((3, 4, 0), np.float32)}
    found = decoder.decode(no_uniforms, threads=2, forced=forced, logits=True)
    for name in ("logits", "hidden_out"):
        np.testing.assert_array_equal(found[name], free[name])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("operand", ["conditioning", "hidden"])
def test_nan_in_a_stream_is_visible_in_its_samples(
    library: NativeLibrary, operand: str, model: str, arithmetic: Arithmetic
) -> None:
    """Samples are NaN, or the same class forever, which the output guard notices; other streams are as without."""
    case = NativeCase(small_shapes(40)[model], arithmetic, steps=5)
    decoder = case.open(library)
    sound = decoder.decode(case.inputs, threads=2)
    damaged = {**case.inputs, operand: case.inputs[operand].copy()}
    damaged[operand][(0, 1, 17) if operand == "hidden" else (1, slice(None), 17)] = np.nan
    for path in library.paths:
        found = case.open(library, path).decode(damaged, threads=2, logits=True)
        assert np.isnan(found["logits"][1]).all()
        value = found["samples"][1]
        assert (value == 0).all() if value.dtype == np.int32 else np.isnan(value).all()
        for name in ("samples", "hidden_out"):
            kept = [0, 2] if name == "samples" else (slice(None), [0, 2])
            np.testing.assert_array_equal(found[name][kept], sound[name][kept])


def test_nan_among_logits_has_no_likelihood(library: NativeLibrary) -> None:
    """As where rows of a damaged model overflow; the likelihoods of the other classes remain what they are."""
    case = NativeCase(small_shapes(5, 5, 100)["one layer, labels"], "int8", batch=1, steps=1)
    inputs = {**case.inputs, "uniforms": np.full((1, 1, 1), 0.55, np.float32)}
    for name in ("fc_weight_0", "output_weight", "output_bias"):
        inputs[name][:] = 0
    inputs["fc_bias_0"][:] = 3e38
    inputs["output_weight"][40:60, :2] = 3e38, -3e38  # an infinite scale times zero
    inputs["output_bias"][:10] = 60
    for path in library.paths:
        found = case.open(library, path, "dense").decode(inputs, logits=True)
        assert np.isnan(found["logits"]).sum() == 20
        assert found["samples"] == 5


def test_uniforms_outside_their_range_draw_classes_that_exist(library: NativeLibrary) -> None:
    uniforms = np.array([0, 1 - 2**-24, 1, 2, np.inf, -1, -np.inf, np.nan], np.float32)
    for model in ("one layer, labels", "mixture"):
        case = NativeCase(SHAPES[model], batch=8, steps=1)
        case.inputs["output_weight"][:] = 0
        case.inputs["output_bias"][:] = np.linspace(-1, 1, case.shape.outputs)
        case.inputs["output_bias"][[0, 9]] = -1000
        case.inputs["uniforms"][:, 0, 0] = uniforms
        for path in library.paths:
            found = case.open(library, path).decode(case.inputs)["samples"][:, 0]
            if model == "mixture":
                assert (np.abs(found) <= 1).all()
                continue
            last = case.shape.outputs - 1
            assert found.tolist() == [1, last, last, last, last, 1, 1, 1]  # class 0 has no likelihood


def test_a_class_begins_where_the_cumulative_likelihood_ends(library: NativeLibrary) -> None:
    """At the edge itself the next class is drawn, as in the reference."""
    case = NativeCase(small_shapes(5, 5, 4)["one layer, labels"], batch=9, steps=1)
    case.inputs["output_weight"][:] = 0
    case.inputs["output_bias"][:] = 0
    edges = np.array([0, 0.25, 0.5, 0.75])
    case.inputs["uniforms"][:, 0, 0] = [*edges, *np.nextafter(np.float32(edges[1:]), np.float32(0)), 0.9, 0.1]
    found = case.open(library).decode(case.inputs)["samples"][:, 0]
    assert found.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


@pytest.mark.parametrize(("model", "floor"), [("gaussian", np.exp(-7)), ("mixture", 1e-14)])
def test_deviations_have_a_floor(library: NativeLibrary, model: str, floor: float) -> None:
    """As in the reference; without it, a sample would be its mean, which is zero here."""
    case = NativeCase(SHAPES[model], steps=1)
    case.inputs["output_weight"][:] = 0
    case.inputs["output_bias"][:] = 0
    case.inputs["output_bias"][-10 if model == "mixture" else -1 :] = -60
    found = case.open(library).decode(case.inputs)["samples"][:, 0]
    np.testing.assert_allclose(found, floor * case.inputs["uniforms"][:, 0, 1], rtol=1e-5)


def test_states_that_underflow_become_zero(library: NativeLibrary) -> None:
    case = NativeCase(SHAPES["one layer, labels"], steps=1)
    inputs = {name: np.zeros_like(value) for name, value in case.inputs.items()}
    inputs["hidden"][:] = np.float32(1.5e-30)
    inputs["hidden"][:, 1] = np.float32(3e-30)
    hidden = NativeDecoder(case.shape, inputs, None, {}, library=library).decode(inputs)["hidden_out"]
    assert (hidden[:, [0, 2]] == 0).all()
    assert (hidden[:, 1] == np.float32(1.5e-30)).all()


def test_a_chunk_without_steps_or_streams_changes_nothing(library: NativeLibrary) -> None:
    case = NativeCase(SHAPES["mixture"])
    none = case.open(library).decode(some_steps(case.inputs, 0, 0), logits=True)
    assert none["samples"].shape == (3, 0)
    np.testing.assert_array_equal(none["hidden_out"], case.inputs["hidden"])


def test_arguments_are_left_as_they_are(library: NativeLibrary) -> None:
    """Also arrays that are read-only, not contiguous or not aligned."""
    case = NativeCase(SHAPES["two layers, skip, values"])
    expected = case.open(library).decode(case.inputs)
    odd: dict[str, Any] = {}
    for name, value in case.inputs.items():
        buffer = np.zeros(value.nbytes + 1, np.uint8)
        odd[name] = buffer[1:].view(value.dtype).reshape(value.shape)
        odd[name][...] = value
        odd[name].flags.writeable = False
    assert_equal(NativeDecoder(case.shape, odd, fed_back(case.shape), {}, library=library).decode(odd), expected)
    reversed_twice = {name: value.T.copy().T for name, value in odd.items()}
    assert_equal(case.open(library).decode(reversed_twice), expected)


WRONG_WEIGHTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"fc_bias_0": None}, "fc_bias_0 is missing"),
    "NaN": ({"recurrent_weight_0": np.full((21, 7), np.nan, np.float32)}, "NaN or infinity"),
    "infinity": ({"output_bias": np.full(37, np.inf, np.float32)}, "NaN or infinity"),
    "shape": ({"fc_weight_0": np.zeros((7, 10), np.float32)}, r"fc_weight_0 is \[7, 10\], expected \[10, 7\]"),
    "type": ({"output_weight": np.zeros((37, 9), np.uint16)}, "output_weight is uint16, expected float32"),
    "beyond bf16": ({"output_weight": np.full((37, 9), 3.4e38, np.float32)}, "output_weight.*bf16 cannot hold"),
}


@pytest.mark.parametrize("what", WRONG_WEIGHTS)
def test_wrong_weights_are_refused(library: NativeLibrary, what: str) -> None:
    case = NativeCase(SHAPES["two layers, skip, values"])
    changes, message = WRONG_WEIGHTS[what]
    weights = {name: value for name, value in {**case.inputs, **changes}.items() if value is not None}
    precisions = dict.fromkeys(MATRICES, "bf16")
    with pytest.raises(ValueError, match=message):
        NativeDecoder(case.shape, weights, fed_back(case.shape), precisions, library=library)


WRONG_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no input values": ({"fed_back": None}, "fed_back: expected the input values of 37 classes"),
    "input values' shape": ({"fed_back": np.zeros(36, np.float32)}, "fed_back"),
    "unknown precision": ({"precisions": {"output_weight": "fp16"}}, "'fp16', expected one of fp32, bf16, int8"),
    "unknown matrix": ({"precisions": {"fc_weight_2": "int8"}}, "fc_weight_2"),
    "no scale": ({"activation_scales": {"output_weight": 0.0}}, "output_weight.*0.0, expected a positive"),
    "NaN scale": ({"activation_scales": {"output_weight": np.nan}}, "nan, expected a positive"),
}


@pytest.mark.parametrize("what", WRONG_SETTINGS)
def test_wrong_settings_are_refused(library: NativeLibrary, what: str) -> None:
    case = NativeCase(SHAPES["two layers, skip, values"])
    changes, message = WRONG_SETTINGS[what]
    settings = {"fed_back": fed_back(case.shape), "precisions": {"output_weight": "int8"}, "activation_scales": {}}
    with pytest.raises(ValueError, match=message):
        NativeDecoder(case.shape, case.inputs, **{**settings, **changes}, library=library)


WRONG_CHUNKS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"hidden": None}, "the input hidden is missing"),
    "type": ({"uniforms": np.zeros((3, 4, 1))}, "uniforms is float64, expected float32"),
    "columns": ({"conditioning": np.zeros((3, 4, 20), np.float32)}, "conditioning has shape"),
    "streams": ({"previous": np.zeros(2, np.int32)}, "previous has shape"),
    "steps": ({"frame_index": np.zeros((3, 5), np.int32)}, "uniforms has shape"),
    "states": ({"hidden": np.zeros((2, 3, 7), np.float32)}, "hidden has shape"),
    "label": ({"previous": np.array([0, 37, 0], np.int32)}, "labels: found 0 to 37, expected 0 to 36"),
    "negative label": ({"previous": np.array([0, -1, 0], np.int32)}, "labels: found -1"),
    "frame": ({"frame_index": np.full((3, 4), 4, np.int32)}, "frame_index: found 4 to 4, expected 0 to 3"),
    "negative frame": ({"frame_index": np.full((3, 4), -1, np.int32)}, "frame_index: found -1"),
    "no rows": ({"conditioning": np.zeros((3, 0, 21), np.float32)}, "frame_index: found"),
    "no uniforms": ({"uniforms": np.zeros((3, 4, 0), np.float32)}, "uniforms has shape"),
}


@pytest.mark.parametrize("what", WRONG_CHUNKS)
def test_wrong_chunks_are_refused(library: NativeLibrary, what: str) -> None:
    case = NativeCase(SHAPES["one layer, labels"])
    changes, message = WRONG_CHUNKS[what]
    inputs = {name: value for name, value in {**case.inputs, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        case.open(library).decode(inputs)


def test_wrong_threads_and_forced_inputs_are_refused(library: NativeLibrary) -> None:
    case = NativeCase(SHAPES["one layer, labels"])
    decoder = case.open(library)
    for threads in (0, -1):
        with pytest.raises(ValueError, match=f"threads: found {threads}, expected at least 1"):
            decoder.decode(case.inputs, threads=threads)
    with pytest.raises(ValueError, match=r"forced is \[3, 5\], expected \[3, 4\]"):
        decoder.decode(case.inputs, forced=np.zeros((3, 5), np.int32))
    for label in (37, -1, 2**32):
        with pytest.raises(ValueError, match=f"labels: found .*{label}"):
            decoder.decode(case.inputs, forced=np.full((3, 4), label))
    with pytest.raises(ValueError, match="labels: found nan"):
        decoder.decode(case.inputs, forced=np.full((3, 4), np.nan))


def test_the_environment_selects_a_path(library: NativeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    case = NativeCase(SHAPES["one layer, labels"])
    for path in library.paths:
        monkeypatch.setenv(PATH_VARIABLE, path)
        assert case.open(library).path == path
    monkeypatch.setenv(PATH_VARIABLE, "mmx")
    with pytest.raises(NativeLibraryError, match=f"'mmx', expected one of {', '.join(library.paths)}"):
        case.open(library)
    with pytest.raises(NativeLibraryError, match="cannot run the path"):
        case.open(library, "mmx")


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
