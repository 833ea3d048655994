"""Executors of a quantised model directory, compared with each other and with numpy.

A value between two numbers of its grid may be rounded to one in float32 and to the other in double precision; the
difference is then a step of the grid. This is rare: all but a few streams must agree up to float32's rounding.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

pytest.importorskip("onnx_graphsurgeon", reason="graphs are rewritten")


from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.engines.gpu import Gpu
from wavernn_trt.export.grids import encode_weight, round_activations, round_weight
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization, product_names
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.products import find_products
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.executors.cuda_executor import default_precision
from wavernn_trt.runtime.executors.kernel_plan import read_decoder
from wavernn_trt.runtime.executors.protocol import Chunk, FloatArray
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.vocoder import Vocoder

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the reference executor needs PyTorch")

MakeQuantised = Callable[..., ModelDirectory]
SmallDirectory = Callable[[str], ModelDirectory]
KINDS: dict[str, tuple[Grid, bool]] = {
    "int8": ("int8", False),
    "int8 weights": ("int8", True),
    "fp8": ("fp8", False),
    "fp16": ("fp16", False),
    "bf16": ("bf16", False),
}
STREAMS = 150
MEL_FRAMES = 12
SAME = 1e-6
"""Tolerance of float32's sums, relative to the largest logit."""


def quantization(directory: ModelDirectory, kind: str, bound: float = 2.0, kept: tuple[str, ...] = ()) -> Quantization:
    """Bounds that clip a part of the activations: states of a GRU lie within 1, rectified values do not."""
    grid, weights_only = KINDS[kind]
    scaled = grid in LARGEST and not weights_only
    names = [name for name in product_names(directory.model) if name not in kept]
    bounds = {name: 1.0 if name.startswith("recurrent") else bound for name in names}
    return Quantization({name: Product(grid, bounds[name] if scaled else None, weights_only) for name in names})


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, small_directory: SmallDirectory) -> MakeQuantised:
    """A function (layout, kind, **settings of `quantization`) -> the quantised directory, made once."""
    folder = tmp_path_factory.mktemp("quantised")

    @functools.cache
    def quantised(layout: str, kind: str, **settings: Any) -> ModelDirectory:
        directory = small_directory(layout)
        out = folder / str(len(list(folder.iterdir())))
        return quantize(directory, quantization(directory, kind, **settings), out, steps=2)

    return quantised


@dataclass(frozen=True)
class Given:
    """Inputs of steps: random states and samples over their whole range, at random places of an utterance."""

    mel: FloatArray
    starts: NDArray[np.int64]
    previous: NDArray[Any]
    hidden: FloatArray


def given(directory: ModelDirectory, streams: int = STREAMS, steps: int = 1) -> Given:
    random, model = np.random.default_rng(3), directory.model
    mel = random.uniform(-1, 1, (directory.audio.n_mels, MEL_FRAMES)).astype(np.float32)
    starts = random.integers(0, MEL_FRAMES * directory.audio.hop_length - steps, streams)
    fed = (
        random.integers(0, model.outputs, (streams, steps)).astype(np.int32)
        if model.label_feedback
        else random.uniform(-1, 1, (streams, steps)).astype(np.float32)
    )
    hidden = random.uniform(-1, 1, (model.layers, streams, model.hidden_size)).astype(np.float32)
    return Given(mel, starts, fed, hidden)


def forced(opened: LoadedModel, values: Given) -> tuple[FloatArray, FloatArray]:
    """Logits [B, T, outputs], and the state after them."""
    windows = ConditioningWindows(opened.model, opened.audio, values.previous.shape[1], opened.upsampling)
    rows = opened.executor.condition(values.mel)
    cuts = [windows.cut(rows, int(start)) for start in values.starts]
    chunk = Chunk(
        np.stack([cut.rows for cut in cuts]),
        np.stack([cut.frame_index for cut in cuts]),
        np.stack([cut.interpolation for cut in cuts]),
        np.zeros((*values.previous.shape, 0), np.float32),
    )
    return opened.executor.teacher_forced(chunk, values.previous, values.hidden)


def on(directory: ModelDirectory, backend: str, values: Given, threads: int = 1) -> tuple[FloatArray, FloatArray]:
    return forced(load_model(directory.path, LoadOptions(backend, threads=threads)), values)


def streams_apart(found: FloatArray, expected: FloatArray) -> float:
    """The share of streams with a different logit."""
    error = np.abs(found - expected) / np.abs(expected).max()
    return float((error.reshape(len(error), -1).max(axis=1) > SAME).mean())


def distance(found: FloatArray, expected: FloatArray) -> float:
    return float(np.sqrt(np.square(found.astype(np.float64) - expected).mean()))


@needs_torch
@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        *((layout, kind) for layout in ("univoc", "raw") for kind in KINDS),
        *((layout, "int8") for layout in ("turian", "odd", "mol", "gauss", "no_aux", "linear", "linear_no_aux")),
    ],
)
def test_onnx_runtime_agrees_with_the_reference(
    layout: str, kind: str, make: MakeQuantised, small_directory: SmallDirectory
) -> None:
    directory = make(layout, kind)
    values = given(directory)
    found, state = on(directory, "onnxruntime", values)
    expected, expected_state = on(directory, "torch", values)
    plain, _ = on(small_directory(layout), "torch", values)
    assert streams_apart(plain, expected) > 0.9  # rounding makes a difference
    assert streams_apart(found, expected) < 0.03
    assert distance(found, expected) < distance(plain, expected) / 10
    assert np.median(np.abs(state - expected_state)) < 1e-7
    assert (np.abs(state - expected_state) > 1e-5).mean() < 0.01


@needs_torch
@pytest.mark.parametrize(
    ("layout", "kind"),
    [*((layout, kind) for layout in ("univoc", "raw") for kind in KINDS), ("turian", "int8"), ("odd", "int8")],
)
def test_both_agree_with_numpy(layout: str, kind: str, make: MakeQuantised, reference: ModuleType) -> None:
    """Numpy computes one step from the trained weights."""
    directory = make(layout, kind)
    values = given(directory)
    checkpoint = reference.small_checkpoint(layout)
    import torch

    mel = torch.from_numpy(values.mel)[None]
    with torch.no_grad():
        rows = checkpoint.model.conditioner.double()(mel.double())[0].numpy()
    conditioning = reference.expand(checkpoint.model, rows, directory.audio.hop_length)[values.starts]
    assert directory.quantization is not None
    weights = {name: value.numpy() for name, value in checkpoint.state.items()}
    step = univoc_step if layout == "univoc" else fatchord_step
    rounding = Rounding(weights, directory.quantization)
    expected = step(rounding, values.previous[:, 0], values.hidden, conditioning)
    for backend in ("onnxruntime", "torch"):
        found, _ = on(directory, backend, values)
        assert streams_apart(found[:, 0], expected.astype(np.float32)) < 0.03, backend


@dataclass(frozen=True)
class Rounding:
    """A model's products, with rounding."""

    weights: dict[str, NDArray[np.float32]]
    quantization: Quantization

    def product(self, name: str, layer: str, x: NDArray[Any], rest: NDArray[Any], suffix: str = "") -> NDArray[Any]:
        """``x`` is rounded with the columns that it is multiplied by; ``rest`` and its columns are not."""
        weight, bias = self.weights[f"{layer}.weight{suffix}"], self.weights[f"{layer}.bias{suffix}"]
        first, others = weight[:, : x.shape[1]], weight[:, x.shape[1] :]
        product = self.quantization.products.get(name)
        if product is not None:
            first, x = round_weight(first, product), round_activations(x, product)
        result: NDArray[Any] = x.astype(np.float64) @ first.T.astype(np.float64) + rest @ others.T + bias
        return result

    def gru(self, layer: int, name: str, gates: NDArray[Any], hidden: FloatArray) -> NDArray[Any]:
        nothing = np.zeros((len(hidden), 0))
        recurrent = self.product(f"recurrent_{layer}", name, hidden, nothing, suffix="_hh_l0")
        (reset, update, new), (reset_2, update_2, new_2) = np.split(gates, 3, 1), np.split(recurrent, 3, 1)
        reset, update = 1 / (1 + np.exp(-reset - reset_2)), 1 / (1 + np.exp(-update - update_2))
        new = np.tanh(new + reset * new_2)
        return new + update * (hidden - new)


def univoc_step(model: Rounding, previous: NDArray[Any], hidden: FloatArray, rows: NDArray[Any]) -> NDArray[Any]:
    nothing = np.zeros((len(rows), 0))
    x = np.concatenate([model.weights["embedding.weight"][previous], rows], axis=1)
    gates = x @ model.weights["rnn2.weight_ih_l0"].T.astype(np.float64) + model.weights["rnn2.bias_ih_l0"]
    state = model.gru(0, "rnn2", gates, hidden[0])
    x = np.maximum(model.product("fc_0", "fc1", state, nothing), 0)
    return model.product("output", "fc2", x, nothing)


def fatchord_step(model: Rounding, previous: NDArray[Any], hidden: FloatArray, rows: NDArray[Any]) -> NDArray[Any]:
    layers, nothing = len(hidden), np.zeros((len(rows), 0))
    part = 8 // (2 * layers)
    mel, aux = rows[:, :6], np.split(rows[:, 6:], range(part, 8, part), axis=1)
    first = aux[0] if layers == 2 else aux[0][:, :-1]  # turian omits the last
    x = np.concatenate([previous[:, None], mel, first], axis=1) @ model.weights["I.weight"].T.astype(np.float64)
    x = x + model.weights["I.bias"]
    gates = x @ model.weights["rnn1.weight_ih_l0"].T.astype(np.float64) + model.weights["rnn1.bias_ih_l0"]
    x = x + model.gru(0, "rnn1", gates, hidden[0])
    if layers == 2:
        gates = model.product("input_1", "rnn2", x, aux[1], suffix="_ih_l0")
        x = x + model.gru(1, "rnn2", gates, hidden[1])
    x = np.maximum(model.product("fc_0", "fc1", x, aux[layers]), 0)
    if layers == 2:
        x = np.maximum(model.product("fc_1", "fc2", x, aux[3]), 0)
    return model.product("output", "fc3", x, nothing)


@needs_torch
@pytest.mark.parametrize("kept", [("recurrent_0",), ("fc_0", "output"), ("input_1",), ("recurrent_1", "fc_1")])
def test_products_that_are_kept_are_not_rounded(kept: tuple[str, ...], make: MakeQuantised) -> None:
    directory, whole = make("raw", "int8", kept=kept), make("raw", "int8")
    values = given(directory)
    found, _ = on(directory, "onnxruntime", values)
    expected, _ = on(directory, "torch", values)
    assert streams_apart(found, expected) < 0.03
    assert streams_apart(on(whole, "torch", values)[0], expected) > 0.1  # coarse products after it hide the rest


@needs_torch
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_values_beyond_the_bound_are_clipped_alike(kind: str, make: MakeQuantised) -> None:
    directory, loose = make("raw", kind, bound=0.05), make("raw", kind)
    values = given(directory)
    found, _ = on(directory, "onnxruntime", values)
    expected, _ = on(directory, "torch", values)
    assert streams_apart(found, expected) < 0.03
    assert (
        distance(on(loose, "torch", values)[0], expected) > 0.1 * np.abs(expected).max()
    )  # clipping makes a difference


@pytest.mark.parametrize("layout", ["univoc", "raw"])
def test_integer_products_have_the_same_bits_alone_in_any_batch_and_with_any_threads(
    layout: str, make: MakeQuantised
) -> None:
    directory = make(layout, "int8")
    values = given(directory, streams=32, steps=5)
    logits, state = on(directory, "onnxruntime", values)
    for count, threads in ((1, 1), (3, 1), (32, 2), (3, 2)):
        part = Given(values.mel, values.starts[:count], values.previous[:count], values.hidden[:, :count])
        found, found_state = on(directory, "onnxruntime", part, threads)
        np.testing.assert_array_equal(found, logits[:count])
        np.testing.assert_array_equal(found_state, state[:, :count])


def test_a_quantised_model_has_the_same_bits_alone_and_in_a_batch(make: MakeQuantised) -> None:
    random = np.random.default_rng(1)
    mels = [random.uniform(0, 1, (6, frames)).astype(np.float32) for frames in (4, 9, 7)]
    with Vocoder.load(make("raw", "int8").path, "onnxruntime", threads=1, batch=3) as vocoder:
        together = vocoder.vocode_batch(mels, seeds=[1, 2, 3])
        for mel, seed, waveform in zip(mels, (1, 2, 3), together, strict=True):
            np.testing.assert_array_equal(vocoder.vocode(mel, seed=seed), waveform)


KERNEL_NAMES = {"recurrent": "recurrent_weight_{}", "input": "input_weight_{}", "fc": "fc_weight_{}"}


def kernel_weights(directory: ModelDirectory, precision: WeightPrecision) -> dict[str, NDArray[Any]]:
    """A kernel's matrices, by the products' names."""
    decoder = read_decoder(directory, precision)
    stored = {
        one.name: array[:, : one.shape[1]] if one.kind == "weight" else array
        for one, array in zip(decoder.shape.weight_inputs(), decoder.weights, strict=True)
    }
    names = {"output": "output_weight"}
    for name in product_names(directory.model)[:-1]:
        kind, number = name.split("_")
        names[name] = KERNEL_NAMES[kind].format(number)
    return {name: stored[other] for name, other in names.items()}


def trained_products(directory: ModelDirectory) -> dict[str, NDArray[np.float32]]:
    step = read_networks(directory).step
    return {name: node.inputs[1].values for name, node in find_products(step, directory.model).items()}


@pytest.mark.parametrize("layout", ["univoc", "raw"])
def test_an_fp8_kernel_stores_the_codes_of_the_directory(
    layout: str, make: MakeQuantised, small_directory: SmallDirectory
) -> None:
    found = kernel_weights(make(layout, "fp8"), "fp8")
    for name, weight in trained_products(small_directory(layout)).items():
        codes, _ = encode_weight(weight, "fp8")
        np.testing.assert_array_equal(found[name], codes.view(np.uint8))


@pytest.mark.parametrize("kind", ["int8", "int8 weights", "fp8"])
def test_kernels_of_other_precisions_have_the_rounded_weights(
    kind: str, make: MakeQuantised, small_directory: SmallDirectory
) -> None:
    directory = make("raw", kind)
    exact, halves = kernel_weights(directory, "fp32"), kernel_weights(directory, "fp16")
    assert directory.quantization is not None
    for name, weight in trained_products(small_directory("raw")).items():
        expected = round_weight(weight, directory.quantization.products[name])
        np.testing.assert_array_equal(exact[name], expected)
        np.testing.assert_allclose(halves[name].astype(np.float32), expected, rtol=2**-11, atol=2**-25)


def test_the_kernel_uses_fp8_where_all_weights_are_fp8(make: MakeQuantised) -> None:
    ada, turing = Gpu("NVIDIA Pretended 4000", 89), Gpu("NVIDIA Pretended 2000", 75)
    assert default_precision(make("raw", "fp8"), ada) == "fp8"
    assert default_precision(make("raw", "fp8"), turing) == "fp32"
    assert default_precision(make("raw", "fp8", kept=("fc_0",)), ada) == "fp16"
    assert default_precision(make("raw", "int8"), ada) == "fp16"


def test_running_a_quantised_model_needs_only_onnx_runtime(make: MakeQuantised) -> None:
    code = (
        "import sys, numpy as np\n"
        "for name in ('torch', 'onnx', 'ml_dtypes', 'onnx_graphsurgeon'):\n"
        "    sys.modules[name] = None\n"
        "from wavernn_trt.runtime.vocoder import Vocoder\n"
        f"with Vocoder.load({str(make('raw', 'int8').path)!r}, 'onnxruntime', threads=1) as vocoder:\n"
        "    mel = np.zeros((vocoder.config.audio.n_mels, 2), np.float32)\n"
        "    assert len(vocoder.vocode(mel)) == 2 * vocoder.config.audio.hop_length\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_quantising_needs_no_pytorch(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "from wavernn_trt.calibration.quantize import quantize\n"
        "from wavernn_trt.export.model_directory import open_model_directory\n"
        "from wavernn_trt.export.quantization import Product, Quantization\n"
        "from wavernn_trt.runtime.vocoder import Vocoder\n"
        "products = Quantization({'output': Product('int8', 28.0)})\n"
        f"quantize(open_model_directory({str(SMALL_VOICE)!r}), products, {str(tmp_path / 'out')!r}, steps=2)\n"
        f"with Vocoder.load({str(tmp_path / 'out')!r}, 'onnxruntime', threads=1) as vocoder:\n"
        "    mel = np.zeros((vocoder.config.audio.n_mels, 2), np.float32)\n"
        "    assert len(vocoder.vocode(mel)) == 2 * vocoder.config.audio.hop_length\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
