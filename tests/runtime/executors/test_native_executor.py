"""The native executor: how model directories are opened, and that it computes what ONNX Runtime computes."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wavernn_trt
from wavernn_trt.export.model_directory import CONFIG, SEQUENCE, ModelDirectoryError, write_manifest
from wavernn_trt.export.operators import NATIVE_PRECISIONS
from wavernn_trt.plugins.cpu import library
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors import native_executor
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import load_model, shipped_voice
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.cli import main

try:
    library.native_library()
except library.NativeLibraryError as error:
    pytest.skip(f"the native decoder: {error}", allow_module_level=True)

MODELS = Path(__file__).resolve().parents[2] / "fixtures" / "models"
LAYOUTS = sorted(path.name for path in MODELS.iterdir())


def random_mel(vocoder: Vocoder, frames: int, seed: int = 0) -> np.ndarray:
    low, high = vocoder.config.audio.mel_range
    return np.random.default_rng(seed).uniform(low, high, (vocoder.config.audio.n_mels, frames)).astype(np.float32)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """A function (layout, keys of config.json) -> a copy of a small model."""

    def copy(layout: str = "univoc", **config: object) -> Path:
        folder = tmp_path / layout
        shutil.copytree(MODELS / layout, folder)
        if config:
            values = json.loads((folder / CONFIG).read_text())
            (folder / CONFIG).write_text(json.dumps({**values, **config}))
            write_manifest(folder)
        return folder

    return copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_samples_are_those_of_onnx_runtime(layout: str) -> None:
    native, reference = (wavernn_trt.load(MODELS / layout, backend) for backend in ("native", "onnxruntime"))
    mel = random_mel(native, 9)
    expected = reference.labels(mel, seed=3)
    np.testing.assert_allclose(
        native.teacher_forced(mel, expected), reference.teacher_forced(mel, expected), atol=2e-5, rtol=1e-5
    )
    found = native.labels(mel, seed=3)
    if found.dtype == np.int32:
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_model_that_is_fed_with_amplitudes_is_decoded(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="exports a checkpoint")
    from wavernn_trt.export import export, read_checkpoint

    checkpoint = read_checkpoint(MODELS / "raw", mu_law=True, amplitude_feedback=True)
    folder = export(checkpoint, tmp_path / "model", steps=2, cpu_precision="bf16").directory.path
    native, reference = (wavernn_trt.load(folder, backend) for backend in ("native", "onnxruntime"))
    assert native.config.model.amplitude_feedback
    assert native.precision == "bf16"
    mel = random_mel(native, 9)
    again = export(folder, tmp_path / "again", steps=2).directory
    assert again.cpu_precision == "bf16"
    exact = wavernn_trt.load(folder, "native", precision="fp32")
    assert np.array_equal(exact.labels(mel, seed=3), reference.labels(mel, seed=3))


@pytest.mark.parametrize("precision", NATIVE_PRECISIONS)
@pytest.mark.parametrize("layout", ["tiny", "raw", "mol"])
def test_an_utterance_has_equal_bits_alone_in_a_batch_streamed_and_with_any_number_of_threads(
    layout: str, precision: str
) -> None:
    vocoders = [wavernn_trt.load(MODELS / layout, "native", threads=count, precision=precision) for count in (1, 3)]
    mels = [random_mel(vocoders[0], frames, frames) for frames in (7, 1, 12, 4, 9)]
    alone = [vocoders[0].vocode(mel, seed=seed) for seed, mel in enumerate(mels)]
    for vocoder in vocoders:
        together = vocoder.vocode_batch(mels, seeds=range(len(mels)))
        streamed = [np.concatenate(list(vocoder.stream(mel, seed=seed))) for seed, mel in enumerate(mels)]
        for one, other, pieces in zip(alone, together, streamed, strict=True):
            assert np.array_equal(one, other)
            assert np.array_equal(one, pieces)


def test_auto_selects_it_on_a_cpu_with_the_precision_of_the_directory(copy: Callable[..., Path]) -> None:
    assert (wavernn_trt.load().backend, wavernn_trt.load().precision) == ("native", "int8")
    assert wavernn_trt.load(precision="bf16").precision == "bf16"
    assert wavernn_trt.load(MODELS / "univoc").precision == "fp32"
    assert wavernn_trt.load(copy(cpu_precision="bf16")).precision == "bf16"


def test_a_default_precision_that_does_not_exist_is_refused(copy: Callable[..., Path]) -> None:
    with pytest.raises(ModelDirectoryError, match="cpu_precision is 'fp16', expected one of fp32, bf16, int8"):
        wavernn_trt.load(copy(cpu_precision="fp16"))


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("native", "fp16", "found 'fp16', expected one of fp32, bf16, int8"),
        ("onnxruntime", "bf16", "found 'bf16' for onnxruntime, which has no choice"),
        ("cuda", "int8", "found 'int8', expected one of fp32, fp16, bf16, fp8"),
        ("auto", "int4", "found 'int4', expected one of fp32, fp16, bf16, fp8, int8"),
    ],
)
def test_a_precision_that_a_backend_does_not_have_is_refused(backend: str, precision: str, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        LoadOptions(backend, precision=precision)  # type: ignore[arg-type]


def test_without_the_library_auto_uses_onnx_runtime_and_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> library.NativeLibrary:
        raise library.NativeLibraryError(library.INSTALL)

    monkeypatch.setattr(native_executor, "native_library", missing)
    with caplog.at_level(logging.WARNING):
        assert wavernn_trt.load().backend == "onnxruntime"
    assert "onnxruntime, which is slower: install a C++ compiler" in caplog.text
    with pytest.raises(VocoderError, match=r"the native decoder is not installed: install a C\+\+ compiler"):
        wavernn_trt.load(backend="native")
    assert main(["inspect", str(shipped_voice()), "--json"]) == 0
    assert "install a C++ compiler" in json.loads(capsys.readouterr().out)["native"]["reason"]


def test_a_cpu_without_vector_instructions_uses_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(library.PATH_VARIABLE, library.PORTABLE)
    assert wavernn_trt.load(MODELS / "univoc").backend == "onnxruntime"
    assert "lacks AVX2 with FMA, or NEON" in caplog.text
    assert wavernn_trt.load(MODELS / "univoc", "native").executor.path == library.PORTABLE  # type: ignore[attr-defined]


def test_a_directory_of_an_earlier_version_is_read_from_its_graphs(copy: Callable[..., Path]) -> None:
    pytest.importorskip("onnx_graphsurgeon", reason="graphs are read with ONNX")
    folder = copy("raw")
    mel = random_mel(wavernn_trt.load(folder), 5)
    expected = wavernn_trt.load(folder, "native").labels(mel)
    (folder / SEQUENCE).unlink()
    write_manifest(folder)
    assert np.array_equal(wavernn_trt.load(folder, "native").labels(mel), expected)


def test_a_directory_of_an_earlier_version_without_onnx_is_refused_with_the_way_out(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    (folder / SEQUENCE).unlink()
    write_manifest(folder)
    monkeypatch.setitem(__import__("sys").modules, "wavernn_trt.export.rewrite.from_directory", None)
    with pytest.raises(VocoderError, match=r"has no sequence\.npz.*or export it again: wavernn-trt export"):
        wavernn_trt.load(folder, "native")
    assert wavernn_trt.load(folder).backend == "onnxruntime"


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: {name: array for name, array in arrays.items() if name != "output_weight"},
        lambda arrays: {**arrays, "output_weight": arrays["output_weight"][:-1]},
        lambda arrays: {**arrays, "fc_bias_0": arrays["fc_bias_0"].astype(np.float64)},
        lambda arrays: {**arrays, "shape.hidden_size": np.asarray(1 << 20)},
        lambda arrays: {name: array for name, array in arrays.items() if name != "shape.layers"},
    ],
    ids=["missing weight", "short weight", "float64", "other size", "no layers"],
)
def test_a_damaged_file_of_weights_is_refused(
    copy: Callable[..., Path], damage: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    folder = copy()
    np.savez(folder / SEQUENCE, **damage(dict(np.load(folder / SEQUENCE))))  # type: ignore[arg-type]
    with pytest.raises(ModelDirectoryError, match=r"sequence\.npz is damaged"):
        load_model(folder, LoadOptions("native"))
    write_manifest(folder)
    with pytest.raises(ModelDirectoryError, match=r"sequence\.npz: .*export the checkpoint again"):
        load_model(folder, LoadOptions("native"))


@pytest.mark.parametrize("place", [[1 << 40, 8, 8], [-8, 8, 8], [0], [], [[0, 8, 8]], 0, [0, -8, 8]])
def test_a_place_outside_of_the_graphs_weights_is_refused(copy: Callable[..., Path], place: Any) -> None:
    folder = copy()
    arrays = dict(np.load(folder / SEQUENCE))
    (name,) = (name for name in arrays if name.startswith("place.feedback"))
    np.savez(folder / SEQUENCE, **{**arrays, name: np.asarray(place)})  # type: ignore[arg-type]
    write_manifest(folder)
    with pytest.raises(ModelDirectoryError, match=r"sequence\.npz: .*export the checkpoint again"):
        load_model(folder, LoadOptions("native"))


def test_a_file_of_weights_that_cannot_be_unpacked_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    content = bytearray((folder / SEQUENCE).read_bytes())
    with zipfile.ZipFile(folder / SEQUENCE) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.compress_size)
    middle = largest.header_offset + largest.compress_size // 2
    content[middle : middle + 64] = bytes(64)
    (folder / SEQUENCE).write_bytes(content)
    write_manifest(folder)
    with pytest.raises(ModelDirectoryError, match=r"sequence\.npz: .*export the checkpoint again"):
        load_model(folder, LoadOptions("native"))


def test_a_file_of_weights_of_another_model_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    shutil.copyfile(MODELS / "tiny" / SEQUENCE, folder / SEQUENCE)
    write_manifest(folder)
    with pytest.raises(ModelDirectoryError, match=r"its decoder is not that of config\.json"):
        load_model(folder, LoadOptions("native"))


def test_a_pickled_vocoder_opens_with_the_same_precision() -> None:
    loaded = load_model(MODELS / "univoc", LoadOptions("native", precision="bf16"))
    again = pickle.loads(pickle.dumps(loaded))
    assert (again.executor.name, again.precision) == ("native", "bf16")


def test_the_summary_names_the_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mel = shipped_voice().parent / "sample_mel.npy"
    assert main(["vocode", str(mel), "-o", str(tmp_path / "a.wav"), "-q", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["backend"], report["engine"], report["precision"]) == ("native", None, "int8")


@pytest.mark.parametrize("precision", NATIVE_PRECISIONS)
def test_the_probe_passes_in_every_precision(precision: str) -> None:
    with Vocoder.load(backend="native", precision=precision, probe=True) as vocoder:
        assert vocoder.precision == precision
