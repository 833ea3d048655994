"""A probe passes low-precision engines and quantised voices, and finds their damage behind the rounding."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx_graphsurgeon", reason="graphs are rewritten")

import low_precision_engine as engine

from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.export.model_directory import PROBE, WEIGHTS, ModelDirectory, open_model_directory, write_manifest
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization
from wavernn_trt.runtime.health.probe import (
    CELLS_ON_QUANTISED,
    KERNELS_ON_QUANTISED,
    NoProbeError,
    ProbeResult,
    probe,
)
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

Weights = dict[str, NDArray[np.float32]]
MakeQuantised = Callable[[Grid, bool], ModelDirectory]
Change = Callable[[NDArray[Any]], NDArray[Any]]


@pytest.fixture(scope="module")
def voice() -> ModelDirectory:
    """The shipped voice: many trained weights matter little, so that damage is harder to find."""
    return open_model_directory(shipped_voice())


@pytest.fixture
def voice_copy(tmp_path: Path) -> Path:
    """A copy of the shipped voice, to change."""
    return Path(shutil.copytree(shipped_voice(), tmp_path / "voice"))


def probed(path: Path, backend: str = "onnxruntime") -> ProbeResult:
    with Vocoder.load(path, backend, threads=1) as vocoder:
        return probe(vocoder)


@pytest.mark.parametrize(
    ("layout", "precision"),
    [
        ("shipped", "fp16"),
        *((layout, "bf16") for layout in ("shipped", "univoc", "raw", "mol", "gauss", "linear", "turian")),
    ],
)
def test_engines_of_low_precision_pass(
    layout: str, precision: Any, voice: ModelDirectory, small_directory: Callable[[str], ModelDirectory]
) -> None:
    directory = voice if layout == "shipped" else small_directory(layout)
    with engine.vocoder(directory, precision) as vocoder:
        result = probe(vocoder)
    assert result.passed, result.reason
    if layout == "shipped":
        assert result.displacement > 0  # it is not float32


def zeroed(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: np.zeros_like(weights[name])}


def with_element(name: str, value: float) -> Callable[[Weights], Weights]:
    def damage(weights: Weights) -> Weights:
        changed = weights[name].copy()
        changed[changed.shape[0] // 4, changed.shape[1] // 4] = value
        return {**weights, name: changed}

    return damage


def swapped(name: str, one: int, other: int) -> Callable[[Weights], Weights]:
    def damage(weights: Weights) -> Weights:
        changed = weights[name].copy()
        changed[[one, other]] = changed[[other, one]]
        return {**weights, name: changed}

    return damage


def rolled(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: np.roll(weights[name], 1, axis=0)}


DAMAGED_ENGINES: dict[str, Callable[[Weights], Weights]] = {
    "recurrent weights of zeros": zeroed("recurrent_weight_0"),
    "a dense layer of zeros": zeroed("fc_weight_0"),
    "an embedding of zeros": zeroed("feedback"),
    "NaN among the output weights": with_element("output_weight", np.nan),
    "a weight with a flipped high bit of the exponent": with_element("fc_weight_0", 1e38),
    "rows of a dense layer swapped": swapped("fc_weight_0", 3, 100),
    "outputs swapped": swapped("output_weight", 128, 150),
    "embeddings swapped": swapped("feedback", 120, 136),
    "recurrent rows off by one": rolled("recurrent_weight_0"),
    "output rows off by one": rolled("output_weight"),
}


# bfloat16 rounds most, so that damage is hardest to find there.
@pytest.mark.parametrize("name", DAMAGED_ENGINES)
def test_a_damaged_engine_is_found(name: str, voice: ModelDirectory) -> None:
    with engine.vocoder(voice, "bf16", damage=DAMAGED_ENGINES[name]) as vocoder:
        result = probe(vocoder)
    assert not result.passed
    assert "tensorrt_rtx draws samples" in result.reason
    assert "build the engine again" in result.reason


def test_an_engine_whose_directory_is_damaged_later_does_not_pass(voice_copy: Path) -> None:
    """The reference for an engine's samples is loaded from the directory, with all checks."""
    with engine.vocoder(open_model_directory(voice_copy), "fp16") as vocoder:
        assert probe(vocoder).passed
        (voice_copy / WEIGHTS).write_bytes(b"")
        assert "decoder.weights is damaged" in probe(vocoder).reason


BOUNDS = {"recurrent_0": 1.0, "fc_0": 1.0, "output": 24.0}
"""Bounds of what the shipped voice's products read: states, and outputs of a rectified layer."""
KINDS: tuple[tuple[Grid, bool], ...] = (("int8", False), ("int8", True), ("fp8", False), ("fp8", True), ("bf16", False))


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> MakeQuantised:
    """A function (grid, weights only) -> the shipped voice in it, made once."""
    folder = tmp_path_factory.mktemp("quantised")

    @functools.cache
    def make(grid: Grid, weights_only: bool) -> ModelDirectory:
        scaled = grid in LARGEST and not weights_only
        products = {name: Product(grid, bound if scaled else None, weights_only) for name, bound in BOUNDS.items()}
        out = folder / f"{grid}-{weights_only}"
        return quantize(open_model_directory(shipped_voice()), Quantization(products), out, steps=4)

    return make


def test_without_a_record_the_error_says_to_quantise_again(tmp_path: Path, quantised: MakeQuantised) -> None:
    """Another export of its checkpoint would not be quantised."""
    path = Path(shutil.copytree(quantised("int8", False).path, tmp_path / "voice"))
    (path / PROBE).unlink()
    write_manifest(path)
    with (
        Vocoder.load(path, "onnxruntime", threads=1) as vocoder,
        pytest.raises(NoProbeError, match=r"export the model that it was quantised from .*, and quantise that again$"),
    ):
        probe(vocoder)


@pytest.mark.parametrize(("grid", "weights_only"), KINDS)
def test_a_quantised_voice_passes(grid: Grid, weights_only: bool, quantised: MakeQuantised) -> None:
    path = quantised(grid, weights_only).path
    result = probed(path)
    assert result.passed, result.reason
    assert result.displacement < 1e-6  # its samples follow from its own logits
    assert result.logits_error > 10 * 1e-3  # unlike the voice that it was made from
    Vocoder.load(path, "onnxruntime", threads=1, probe=True).close()


def test_the_reference_of_a_quantised_voice_passes(quantised: MakeQuantised) -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    result = probed(quantised("int8", False).path, "torch")
    assert result.passed, result.reason
    assert result.logits_error > 0.1


def test_the_wider_bounds_hold_for_quantised_voices_only(voice_copy: Path, quantised: MakeQuantised) -> None:
    """Quantised files with a configuration that does not mention it fail."""
    shutil.copyfile(shipped_voice() / "config.json", voice_copy / "config.json")
    for name in ("decoder_loop.onnx", "teacher_forced.onnx", "decoder.onnx", WEIGHTS):
        shutil.copyfile(quantised("int8", False).file(name), voice_copy / name)
    write_manifest(voice_copy)
    result = probed(voice_copy)
    assert not result.passed
    assert "logits differ by" in result.reason


def edit_initializer(path: Path, name: str, change: Change) -> None:
    """Changes a constant of both loops, and updates the manifest."""
    import onnx

    for file in ("decoder_loop.onnx", "teacher_forced.onnx"):
        model = onnx.load(path / file, load_external_data=False)
        graphs = [model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))]
        (tensor,) = (one for graph in graphs for one in graph.initializer if one.name == name)
        values = onnx.numpy_helper.to_array(tensor, str(path))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(change(values)), name))
        onnx.save(model, path / file)
    write_manifest(path)


def exchanged(one: int, other: int) -> Change:
    def change(codes: NDArray[Any]) -> NDArray[Any]:
        codes = codes.copy()
        codes[:, [one, other]] = codes[:, [other, one]]  # an output's codes are a column
        return codes

    return change


def of_zeros(codes: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(codes, 128)  # codes are stored with an offset of 128


def halved(values: NDArray[Any]) -> NDArray[Any]:
    return values / values.dtype.type(2)


DAMAGED: dict[str, tuple[Grid, str, Change]] = {
    "recurrent codes of zeros": ("int8", "step.rnn2.weight_hh_l0.uint8", of_zeros),
    "output codes of zeros": ("int8", "step.fc2.weight.uint8", of_zeros),
    "recurrent rows off by one": ("int8", "step.rnn2.weight_hh_l0.uint8", lambda codes: np.roll(codes, 1, axis=1)),
    "rows of a dense layer swapped": ("int8", "step.fc1.weight.uint8", exchanged(20, 60)),
    "outputs swapped": ("int8", "step.fc2.weight.uint8", exchanged(80, 180)),
    "the state's scale halved": ("int8", "node_linear_1.activation_scale", halved),
    "a dense layer's scale halved": ("int8", "node_linear_2.activation_scale", halved),
    "the last layer's scale halved": ("int8", "node_linear_3.activation_scale", halved),
    "all scales of the output weights halved": ("int8", "step.fc2.weight.scales", halved),
    "recurrent rows of fp8 off by one": (
        "fp8",
        "step.rnn2.weight_hh_l0.fp8_values",
        lambda values: np.roll(values, 1, axis=0),
    ),
    "the state's scale of fp8 halved": ("fp8", "node_linear_1.activation_scale", halved),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_quantised_voice_is_found(name: str, tmp_path: Path, quantised: MakeQuantised) -> None:
    grid, *edit = DAMAGED[name]
    path = Path(shutil.copytree(quantised(grid, False).path, tmp_path / "voice"))
    edit_initializer(path, *edit)
    result = probed(path)
    assert not result.passed
    assert "copy the directory again" in result.reason


@pytest.mark.parametrize("grid", ["int8", "fp8"])
def test_kernels_that_leave_activations_as_they_are_pass(grid: Grid, quantised: MakeQuantised) -> None:
    directory = quantised(grid, False)
    with engine.vocoder(directory, "fp16") as vocoder:
        result = probe(vocoder)
    assert result.passed, result.reason
    assert result.displacement > 1e-5
    with engine.vocoder(directory, "fp16", damage=rolled("output_weight")) as vocoder:
        result = probe(vocoder)
    assert not result.passed
    assert "tensorrt_rtx draws samples" in result.reason


@pytest.mark.parametrize("grid", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_cells_that_round_activations_are_held_closer(grid: Grid, tmp_path: Path, quantised: MakeQuantised) -> None:
    assert CELLS_ON_QUANTISED[grid] < KERNELS_ON_QUANTISED[grid]
    directory = quantised(grid, False)
    with engine.running(engine.CellEngine(directory, "fp16"), directory) as vocoder:
        result = probe(vocoder)
    assert result.passed, result.reason
    path = Path(shutil.copytree(directory.path, tmp_path / "voice"))
    weight = {"int8": "step.fc2.weight.uint8", "fp8": "step.fc2.weight.fp8_values"}[grid]
    edit_initializer(path, weight, lambda values: np.roll(values, 1, axis=1 if grid == "int8" else 0))
    with engine.running(engine.CellEngine(open_model_directory(path), "fp16"), directory) as vocoder:
        result = probe(vocoder)
    assert not result.passed
    assert "tensorrt_rtx draws samples" in result.reason
