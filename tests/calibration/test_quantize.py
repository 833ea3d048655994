"""Quantised model directories: their files, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")
pytest.importorskip("onnx_graphsurgeon", reason="graphs are rewritten")

from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.export.model_directory import (
    CHECKPOINT,
    CONDITIONER,
    CONFIG,
    DECODER,
    DECODER_LOOP,
    MANIFEST,
    PROBE,
    WEIGHTS,
    ModelDirectory,
    file_sha256,
    open_model_directory,
    read_manifest,
    write_manifest,
)
from wavernn_trt.export.quantization import Product, Quantization
from wavernn_trt.runtime.vocoder import Vocoder

INT8 = Quantization(
    {"recurrent_0": Product("int8", 1.0), "fc_0": Product("int8", 1.0), "output": Product("int8", 28.0)}, "ab" * 32
)


@pytest.fixture(scope="module")
def voice() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture(scope="module")
def quantised(voice: ModelDirectory, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    return quantize(voice, INT8, tmp_path_factory.mktemp("quantised") / "voice", steps=3, batch=2)


def test_a_quantised_directory_has_its_settings_and_a_complete_manifest(
    quantised: ModelDirectory, voice: ModelDirectory
) -> None:
    assert open_model_directory(quantised.path) == quantised
    assert quantised.quantization == INT8
    assert (quantised.model, quantised.audio, quantised.source) == (voice.model, voice.audio, voice.source)
    assert (quantised.decoder.steps, quantised.decoder.batch) == (3, 2)
    listed = read_manifest(quantised.file(MANIFEST))
    assert set(listed) == {file.name for file in quantised.path.iterdir()} - {MANIFEST}
    assert {name: entry["sha256"] for name, entry in listed.items()} == {
        name: file_sha256(quantised.file(name)) for name in listed
    }


def test_checkpoint_probe_and_conditioner_are_copied_unchanged(
    quantised: ModelDirectory, voice: ModelDirectory
) -> None:
    for name in (CHECKPOINT, PROBE):
        assert quantised.file(name).read_bytes() == voice.file(name).read_bytes()
    one, other = (onnx.load(str(directory.file(CONDITIONER))).graph.initializer for directory in (quantised, voice))
    assert {tensor.name: tensor.raw_data for tensor in one} == {tensor.name: tensor.raw_data for tensor in other}


def test_int8_weights_take_half_the_bytes(quantised: ModelDirectory, voice: ModelDirectory) -> None:
    table = 256 * 1152 * 4  # the embedding's, which stays in float32
    small, large = (directory.file(WEIGHTS).stat().st_size - table for directory in (quantised, voice))
    # A quarter, twice: signed codes for TensorRT and unsigned ones for ONNX Runtime.
    assert small < 0.55 * large


def test_quantisation_is_deterministic(quantised: ModelDirectory, voice: ModelDirectory, tmp_path: Path) -> None:
    again = quantize(voice, INT8, tmp_path / "again", steps=3, batch=2)
    assert again.file(MANIFEST).read_bytes() == quantised.file(MANIFEST).read_bytes()


def operators_of_loop(directory: ModelDirectory) -> Counter[str]:
    loop = onnx.load(str(directory.file(DECODER_LOOP)))
    (body,) = (a.g for node in loop.graph.node for a in node.attribute if a.HasField("g"))
    return Counter(node.op_type for node in body.node)


def test_each_graph_has_the_operators_of_its_backend(quantised: ModelDirectory) -> None:
    counts = operators_of_loop(quantised)
    assert (counts["MatMulIntegerToFloat"], counts["Gemm"], counts["DequantizeLinear"]) == (3, 0, 0)
    unrolled = Counter(node.op_type for node in onnx.load(str(quantised.file(DECODER))).graph.node)
    assert unrolled["MatMulIntegerToFloat"] == 0
    assert unrolled["QuantizeLinear"] == 3 * quantised.decoder.steps


def test_steps_and_batch_of_the_source_are_the_default(voice: ModelDirectory, tmp_path: Path) -> None:
    small = quantize(voice, INT8, tmp_path / "small", steps=2, batch=3)
    plain = ModelDirectory(voice.path, voice.model, voice.audio, small.decoder, voice.source, voice.upsampling)
    made = quantize(plain, INT8, tmp_path / "made")
    assert (made.decoder.steps, made.decoder.batch) == (2, 3)


def test_one_product_alone_can_be_quantised(voice: ModelDirectory, tmp_path: Path) -> None:
    alone = Quantization({"output": INT8.products["output"]})
    made = quantize(voice, alone, tmp_path / "made", steps=2)
    counts = operators_of_loop(made)
    assert (counts["MatMulIntegerToFloat"], counts["Gemm"]) == (1, 2)


@pytest.mark.parametrize(
    ("products", "sizes", "message"),
    [
        ({"input_1": Product("int8", 1.0)}, {}, "found 'input_1', expected some of recurrent_0, fc_0, output"),
        ({}, {}, "every product is kept in float32: nothing is left to quantise"),
        (INT8.products, {"steps": -1}, "steps: found -1, expected an integer, at least 1"),
        (INT8.products, {"batch": 1.5}, "batch: found 1.5, expected an integer, at least 1"),
        (INT8.products, {"batch": True}, "batch: found True, expected an integer, at least 1"),
    ],
)
def test_unusable_products_and_sizes_are_refused(
    products: Any, sizes: Any, message: str, voice: ModelDirectory, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(voice, Quantization(products), tmp_path / "out", **sizes)
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_directory_is_not_quantised_again(quantised: ModelDirectory, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is quantised already; use its original directory"):
        quantize(quantised, INT8, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("grid", "wrong"), [("int8", np.nan), ("bf16", np.inf)])
def test_weights_that_are_not_finite_are_refused(wrong: float, grid: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(SMALL_VOICE, tmp_path / "voice"))
    weights = np.fromfile(copy / WEIGHTS, np.float32)
    weights[-1000:] = wrong
    weights.tofile(copy / WEIGHTS)
    write_manifest(copy)
    products = Quantization({name: Product(grid, weights_only=True) for name in INT8.products})
    with pytest.raises(ValueError, match="found NaN or infinity among the weights; export a sound checkpoint"):
        quantize(open_model_directory(copy), products, tmp_path / "out", steps=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["voice"]


def test_an_existing_model_is_replaced_only_with_overwrite(voice: ModelDirectory, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not a model directory"):
        quantize(voice, INT8, tmp_path / "notes", overwrite=True)
    first = quantize(voice, INT8, tmp_path / "out", steps=2)
    other = INT8.without(["fc_0"])
    with pytest.raises(ValueError, match="exists; choose another place with -o, or replace it with --overwrite"):
        quantize(voice, other, tmp_path / "out", steps=2)
    assert open_model_directory(tmp_path / "out") == first
    assert quantize(voice, other, tmp_path / "out", steps=2, overwrite=True).quantization == other
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["notes", "out"]


def test_graphs_of_another_exporter_are_refused(voice: ModelDirectory, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(SMALL_VOICE, tmp_path / "voice"))
    loop = onnx.load(copy / DECODER_LOOP, load_external_data=False)
    for node in list(loop.graph.node):
        if node.op_type == "Scan":
            loop.graph.node.remove(node)
    onnx.save(loop, copy / DECODER_LOOP)
    write_manifest(copy)
    with pytest.raises(ValueError, match="found 0 Scan nodes, expected one; export the checkpoint again"):
        quantize(open_model_directory(copy), INT8, tmp_path / "out")


def test_the_source_s_configuration_is_kept(quantised: ModelDirectory, voice: ModelDirectory) -> None:
    values, plain = (json.loads(directory.file(CONFIG).read_text()) for directory in (quantised, voice))
    assert list(values.pop("quantization")) == ["products", "table"]
    assert values["source"] == plain["source"]
    for section in ("model", "audio"):
        assert plain[section].items() <= values[section].items()


def test_a_quantised_model_vocodes(quantised: ModelDirectory) -> None:
    pytest.importorskip("onnxruntime", reason="it runs quantised graphs")
    mel = np.load(SAMPLE_MEL)[:, :20]
    with Vocoder.load(quantised.path, "onnxruntime", threads=1) as vocoder:
        waveform = vocoder.vocode(mel, seed=1)
    assert waveform.shape == (20 * quantised.audio.hop_length,)
    assert 0.01 < np.abs(waveform).max() <= 1.0
