"""Observed activations are the inputs of the matrix products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx_graphsurgeon", reason="the graph is built with it")

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.observe import ObservingExecutor
from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.quantization import Product, Quantization, product_names
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.products import find_products
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.vocoder import Vocoder

LAYOUTS = ("univoc", "raw", "mol", "turian")
Utterance = tuple[NDArray[np.float32], NDArray[np.generic]]


def utterance(directory: ModelDirectory, frames: int, seed: int = 0) -> Utterance:
    rng = np.random.default_rng(seed)
    mel = rng.uniform(0, 1, (directory.audio.n_mels, frames)).astype(np.float32)
    waveform = rng.uniform(-1, 1, frames * directory.audio.hop_length)
    return mel, SampleCoding(directory.model, directory.audio).samples(waveform)


def observe(directory: ModelDirectory, utterances: list[Utterance], batch: int = 1) -> list[NDArray[np.float32]]:
    """Each utterance's activations, [steps, all]."""
    executor = ObservingExecutor(directory, threads=1)
    pieces: list[list[NDArray[np.float32]]] = [[] for _ in utterances]
    for piece in LoadedModel.of(directory, executor).forced_pieces(utterances, batch):
        pieces[piece.stream].append(piece.logits)
    return [np.concatenate(each) for each in pieces]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_logits_are_the_product_of_the_observed_activations(
    small_directory: Callable[[str], ModelDirectory], layout: str
) -> None:
    directory = small_directory(layout)
    mel, samples = utterance(directory, 120)  # several chunks, the last one padded
    (observed,) = observe(directory, [(mel, samples)])
    executor = ObservingExecutor(directory, threads=1)
    assert tuple(executor.columns) == product_names(directory.model)
    product = find_products(read_networks(directory).step, directory.model)["output"]
    read = observed[:, executor.columns["output"]].astype(np.float64)
    with Vocoder.load(directory.path, "onnxruntime", threads=1) as vocoder:
        logits = vocoder.teacher_forced(mel, samples)
    expected = read @ product.inputs[1].values.T + product.inputs[2].values
    assert observed.shape == (len(samples), max(columns.stop for columns in executor.columns.values()))
    assert np.abs(expected - logits).max() < 1e-4 * max(1, np.abs(logits).max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recurrent_products_read_the_previous_state(
    small_directory: Callable[[str], ModelDirectory], layout: str
) -> None:
    directory = small_directory(layout)
    executor = ObservingExecutor(directory, threads=1)
    (observed,) = observe(directory, [utterance(directory, 60)])
    recurrent = [name for name in executor.columns if name.startswith("recurrent")]
    for name in recurrent:
        states = observed[:, executor.columns[name]]
        assert (states[0] == 0).all()
        assert 0.05 < np.abs(states).max() < 1.00001
        assert name in executor.states
    if layout == "univoc":
        first_layer = observed[:, executor.columns["fc_0"]]
        assert (first_layer[:-1] == observed[1:, executor.columns["recurrent_0"]]).all()
        assert executor.states == {"recurrent_0", "fc_0"}
    else:  # fc_0 reads the sum of a state and a skip connection
        assert executor.states == set(recurrent)


def test_activations_do_not_depend_on_neighbours_or_padding(small_directory: Callable[[str], ModelDirectory]) -> None:
    directory = small_directory("raw")
    utterances = [utterance(directory, frames, seed) for seed, frames in enumerate((55, 3, 120, 20))]
    alone, together = observe(directory, utterances), observe(directory, utterances, batch=3)
    for (_, samples), one, other in zip(utterances, alone, together, strict=True):
        assert len(one) == len(samples)
        assert (one == other).all()


def test_a_quantised_directory_is_refused(
    small_directory: Callable[[str], ModelDirectory], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rounded = Quantization({"output": Product("int8", weights_only=True)})
    directory = quantize(small_directory("univoc"), rounded, tmp_path_factory.mktemp("rounded") / "model")
    with pytest.raises(CalibrationError, match="quantised already"):
        ObservingExecutor(directory)
