"""A probe passes executors that compute the model, and fails damaged directories and executors."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faulty_executor as faulty
import numpy as np
import pytest

import wavernn_trt
from wavernn_trt.export.model_directory import (
    PROBE,
    WEIGHTS,
    ModelDirectory,
    ModelDirectoryError,
    open_model_directory,
    write_manifest,
)
from wavernn_trt.runtime.health.probe import (
    NoProbeError,
    ProbeFailedError,
    ProbeResult,
    probe,
    require_probe,
)
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import DEFAULT_LIMITS, Vocoder, shipped_voice

SmallDirectory = Callable[[str], ModelDirectory]


def probed(path: Path, backend: str = "onnxruntime") -> ProbeResult:
    with Vocoder.load(path, backend, threads=1) as vocoder:
        return probe(vocoder)


def with_executor(directory: ModelDirectory, executor: Any, limits: SchedulerLimits = DEFAULT_LIMITS) -> Vocoder:
    return Vocoder(LoadedModel.of(directory, executor), limits=limits)


def test_the_shipped_voice_passes(plain: Vocoder) -> None:
    result = probe(plain)
    assert result.passed, result.reason
    assert result.reason == ""
    assert result.bits == pytest.approx(result.expected_bits, abs=1e-4)
    assert result.displacement < 1e-6
    assert 0 < result.logits_error < 1e-3
    assert result == dataclasses.replace(probe(plain), seconds=result.seconds)  # probes can be repeated


def test_the_reference_itself_passes() -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    result = probed(shipped_voice(), "torch")
    assert result.passed, result.reason


@pytest.mark.parametrize("layout", ["univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian"])
def test_every_layout_passes(layout: str, small_directory: SmallDirectory) -> None:
    result = probed(small_directory(layout).path)
    assert result.passed, result.reason


def largest_recurrent_weight(path: Path) -> int:
    """Offset of the largest recurrent weight in the file of weights."""
    import onnx

    loop = onnx.load(path / "decoder_loop.onnx", load_external_data=False)
    graphs = [attribute.g for node in loop.graph.node for attribute in node.attribute if attribute.HasField("g")]
    (recurrent,) = (t for graph in graphs for t in graph.initializer if t.name.endswith("weight_hh_l0"))
    entry = {item.key: item.value for item in recurrent.external_data}
    offset, length = int(entry["offset"]), int(entry["length"])
    content = np.frombuffer((path / WEIGHTS).read_bytes()[offset : offset + length], np.float32)
    return offset + 4 * int(np.abs(content).argmax())


@pytest.mark.parametrize("bit", [7, 6, 4], ids=["sign", "highest of the exponent", "middle of the exponent"])
def test_a_flipped_bit_is_found_even_if_the_hash_matches(voice_copy: Path, bit: int) -> None:
    pytest.importorskip("onnx", reason="the weight to flip is looked up in the graph")
    where = largest_recurrent_weight(voice_copy) + 3
    content = bytearray((voice_copy / WEIGHTS).read_bytes())
    content[where] ^= 1 << bit
    (voice_copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match="SHA-256"):
        open_model_directory(voice_copy)
    write_manifest(voice_copy)
    result = probed(voice_copy)
    assert not result.passed
    assert "copy the directory again" in result.reason


@pytest.mark.parametrize("damage", ["NaN", "zeros", "rows off by one"])
def test_damaged_weights_are_found_even_if_the_hash_matches(voice_copy: Path, damage: str) -> None:
    weights = np.fromfile(voice_copy / WEIGHTS, np.float32)
    if damage == "NaN":
        weights[-1000] = np.nan  # of the last layer
    elif damage == "zeros":
        weights[: len(weights) // 4] = 0
    else:
        weights = np.roll(weights, 256)
    weights.tofile(voice_copy / WEIGHTS)
    write_manifest(voice_copy)
    assert not probed(voice_copy).passed


def test_a_damaged_conditioner_is_found(voice_copy: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the conditioner's graph is edited")
    model = onnx.load(voice_copy / "conditioner.onnx")
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, voice_copy / "conditioner.onnx")
    write_manifest(voice_copy)
    result = probed(voice_copy)
    assert not result.passed
    assert "logits differ by" in result.reason


def test_a_decoder_that_differs_from_the_teacher_forced_graph_is_found(voice_copy: Path) -> None:
    """The logits are right and the samples are not: the last layer's bias of the decoder's loop is rotated."""
    onnx = pytest.importorskip("onnx", reason="the decoder's graph is edited")
    model = onnx.load(voice_copy / "decoder_loop.onnx", load_external_data=False)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    bias = next(t for t in (*model.graph.initializer, *body.initializer) if list(t.dims) == [256])
    values = np.roll(onnx.numpy_helper.to_array(bias, str(voice_copy)), 40)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, voice_copy / "decoder_loop.onnx")
    write_manifest(voice_copy)
    result = probed(voice_copy)
    assert not result.passed
    assert result.bits == pytest.approx(result.expected_bits, abs=1e-4)
    assert "onnxruntime draws samples that its random numbers do not select" in result.reason


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (WEIGHTS, "flipped"),
        (WEIGHTS, "truncated"),
        ("decoder_loop.onnx", "flipped"),
        (PROBE, "flipped"),
        (PROBE, "missing"),
    ],
)
def test_a_damaged_file_is_found_before_anything_runs(voice_copy: Path, name: str, damage: str) -> None:
    content = bytearray((voice_copy / name).read_bytes())
    if damage == "missing":
        (voice_copy / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (voice_copy / name).write_bytes(content[: -1 if damage == "truncated" else None])
    with pytest.raises(ModelDirectoryError, match=r"missing|bytes|SHA-256"):
        wavernn_trt.load(voice_copy, "onnxruntime")


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ("univoc", "constant_from"),
        ("univoc", "raises_at"),
        ("mol", "constant_from"),
        ("mol", "nan_from"),
        ("mol", "raises_at"),
    ],
)
def test_a_faulty_executor_is_found(layout: str, fault: str, small_directory: SmallDirectory) -> None:
    directory = small_directory(layout)
    executor = faulty.FaultyExecutor(
        load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor, **{fault: 0}
    )
    with with_executor(directory, executor) as vocoder:
        result = probe(vocoder)
        assert not result.passed
        if fault == "nan_from":
            assert "drew nan as sample 0, expected a number from -1 to 1" in result.reason
        if fault == "raises_at":
            assert "injected" in result.reason
        executor.repair()
        if fault != "raises_at":
            assert probe(vocoder).passed


@pytest.mark.parametrize("where", ["conditioner", "decoder"])
def test_an_executor_that_hangs_fails_its_probe(
    where: str, small_directory: SmallDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = small_directory("univoc")
    executor = faulty.FaultyExecutor(load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor)
    if where == "decoder":
        executor.hangs_at = 0
    else:
        monkeypatch.setattr(executor, "condition", lambda mel: executor.released.wait())
    results: list[ProbeResult] = []
    with with_executor(directory, executor, SchedulerLimits(hang_seconds=0.2)) as vocoder:
        thread = threading.Thread(target=lambda: results.append(probe(vocoder)), daemon=True)
        thread.start()
        thread.join(60)
        executor.repair()
    (result,) = results
    assert not result.passed
    assert "does not answer; it had 0.2 s" in result.reason


def test_a_class_that_the_model_does_not_have_is_found(small_directory: SmallDirectory) -> None:
    directory = small_directory("univoc")
    executor = faulty.FaultyExecutor(
        load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor, constant_from=0, constant=99
    )
    with with_executor(directory, executor) as vocoder:
        assert "drew 99 as sample 0, expected a class from 0 to 15" in probe(vocoder).reason
        with pytest.raises(ProbeFailedError, match="drew 99"):
            require_probe(vocoder)
        executor.repair()
        assert require_probe(vocoder).passed


def test_a_record_damaged_while_the_model_is_in_use_is_found(voice_copy: Path) -> None:
    with Vocoder.load(voice_copy, "onnxruntime", threads=1) as vocoder:
        assert probe(vocoder).passed
        content = bytearray((voice_copy / PROBE).read_bytes())
        content[len(content) // 2] ^= 1
        (voice_copy / PROBE).write_bytes(content)
        result = probe(vocoder)
    assert not result.passed
    assert "SHA-256" in result.reason
    assert np.isnan(result.bits)


def test_a_directory_of_an_earlier_version_decodes_and_cannot_be_probed(voice_copy: Path) -> None:
    (voice_copy / PROBE).unlink()
    write_manifest(voice_copy)
    with Vocoder.load(voice_copy, "onnxruntime", threads=1) as vocoder:
        assert len(vocoder.vocode(np.full((80, 2), -0.5, np.float32))) == 400
        with pytest.raises(NoProbeError, match=r"wavernn-trt export .* --overwrite"):
            probe(vocoder)


@pytest.mark.parametrize(
    "content", ["", "[]", "\xff", '{"quantization": 3}', '{"quantization": {"products": {"a": 1}}}']
)
def test_a_configuration_damaged_while_the_model_is_in_use_is_found(voice_copy: Path, content: str) -> None:
    with Vocoder.load(voice_copy, "onnxruntime", threads=1) as vocoder:
        (voice_copy / "config.json").write_text(content, encoding="latin-1")
        write_manifest(voice_copy)
        result = probe(vocoder)
    assert not result.passed
    assert "config.json is damaged" in result.reason


def test_a_checkpoint_cannot_be_probed(tiny_vocoder: Vocoder, tmp_path: Path) -> None:
    loaded = dataclasses.replace(tiny_vocoder.loaded, path=tmp_path / "checkpoint.pt")
    with Vocoder(loaded) as vocoder, pytest.raises(NoProbeError, match="not a model directory"):
        probe(vocoder)


def test_a_probe_does_not_change_what_is_decoded_at_the_same_time(plain: Vocoder) -> None:
    mel = np.random.default_rng(0).uniform(-1, -0.3, (80, 12)).astype(np.float32)
    alone = plain.vocode(mel, seed=5)
    tickets = [plain.submit(wavernn_trt.Request(mel, seed=5)) for _ in range(3)]
    assert probe(plain).passed
    for ticket in tickets:
        np.testing.assert_array_equal(ticket.result(timeout=60), alone)
