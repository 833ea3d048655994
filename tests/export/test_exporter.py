"""Export of a checkpoint: the directory is complete and correct, or nothing is written."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch's")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

import wavernn_trt
from wavernn_trt.export import export, exporter, read_checkpoint
from wavernn_trt.export.model_directory import ModelDirectoryError, open_model_directory
from wavernn_trt.export.rewrite.check import RewriteError

AUDIO = {"hop_length": 6, "win_length": 24, "n_fft": 64}
MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A copy of the model directory of the checkpoint that the fixture `univoc` writes."""
    return Path(shutil.copytree(MODELS / "univoc", tmp_path / "voice"))


@pytest.mark.parametrize(("name", "layers", "steps"), [("univoc", 1, 96), ("fatchord", 2, 24)])
def test_unrolled_steps_have_one_plugin_node_a_cell_and_share_their_weights(
    name: str, layers: int, steps: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint = read_checkpoint(request.getfixturevalue(name), hop_length=6)
    result = export(checkpoint, tmp_path / "voice", steps, batch=2, verify=True)
    assert (result.directory.decoder.steps, result.directory.decoder.batch) == (steps, 2)
    assert result.directory.source["checkpoint"] == checkpoint.path.name
    assert result.agreements[-1].what == "decoder.onnx, ONNX Runtime"
    assert result.agreements[-1].steps == steps
    assert all(agreement.passed for agreement in result.agreements)
    model = onnx.load(tmp_path / "voice" / "decoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["CustomGRUPlugin"] == steps * layers
    assert not {"Loop", "If", "Scan", "Sigmoid", "Tanh"} & set(counts)
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    nodes = sum(node.ByteSize() for node in model.graph.node)
    files = [(tmp_path / "voice" / file).stat().st_size for file in ("decoder.onnx", "decoder.weights")]
    assert sum(files) < 1.2 * (weights + nodes)
    for value in (*model.graph.input, *model.graph.output):
        assert all(size.dim_value > 0 for size in value.type.tensor_type.shape.dim)


def test_a_directory_can_be_exported_again(voice: Path, tmp_path: Path) -> None:
    export(voice, tmp_path / "longer", steps=20, batch=3)
    again = open_model_directory(tmp_path / "longer")
    assert (again.decoder.steps, again.decoder.batch) == (20, 3)
    first = open_model_directory(voice)
    assert (again.model, again.audio, again.source) == (first.model, first.audio, first.source)
    mel = np.random.default_rng(0).uniform(0, 1, (6, 5)).astype(np.float32)
    one, other = wavernn_trt.load(voice), wavernn_trt.load(tmp_path / "longer")
    np.testing.assert_array_equal(one.vocode(mel, seed=3), other.vocode(mel, seed=3))


def test_temperature_is_applied_once_in_repeated_exports(voice: Path, tmp_path: Path) -> None:
    export(read_checkpoint(voice, temperature=0.5), tmp_path / "cool", steps=2)
    export(tmp_path / "cool", tmp_path / "again", steps=2)
    mel = np.random.default_rng(0).uniform(0, 1, (6, 3)).astype(np.float32)
    samples = np.arange(18) % 16
    logits = [
        wavernn_trt.load(tmp_path / name, backend=backend).teacher_forced(mel, samples)
        for name in ("cool", "again")
        for backend in ("onnxruntime", "torch")
    ]
    plain = wavernn_trt.load(voice).teacher_forced(mel, samples)
    for found in logits:
        np.testing.assert_allclose(found, 2 * plain, rtol=1e-4, atol=1e-4)


def test_an_existing_folder_is_replaced_only_if_asked_and_a_model_directory(
    voice: Path, univoc: Path, tmp_path: Path
) -> None:
    before = (voice / "manifest.json").read_bytes()
    checkpoint = read_checkpoint(univoc, **AUDIO)
    with pytest.raises(ModelDirectoryError, match="--overwrite"):
        export(checkpoint, voice, steps=4)
    assert (voice / "manifest.json").read_bytes() == before
    export(checkpoint, voice, steps=4, overwrite=True)
    assert open_model_directory(voice).decoder.steps == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(ModelDirectoryError, match="not a model directory"):
        export(checkpoint, tmp_path / "mine", steps=4, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_a_failed_export_leaves_nothing(univoc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RewriteError("unroll changes what the graph computes")

    monkeypatch.setattr(exporter, "write_graphs", fail)
    (tmp_path / "out").mkdir()
    with pytest.raises(RewriteError):
        export(read_checkpoint(univoc, **AUDIO), tmp_path / "out" / "voice", steps=4)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"batch": 0}, {"steps": -1}])
def test_sizes_below_one_are_refused(univoc: Path, tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        export(univoc, tmp_path / "voice", **numbers)
    assert not (tmp_path / "voice").exists()


def test_a_single_step_can_be_unrolled(univoc: Path, tmp_path: Path) -> None:
    assert export(read_checkpoint(univoc, **AUDIO), tmp_path / "v", steps=1, verify=True).agreements[-1].passed


def test_a_replacement_that_fails_leaves_the_old_voice(
    voice: Path, univoc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".old." not in str(target) and ".old." not in str(self):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    before = (voice / "manifest.json").read_bytes()
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        export(read_checkpoint(univoc, **AUDIO), voice, steps=4, overwrite=True)
    assert (voice / "manifest.json").read_bytes() == before
    assert not [file.name for file in voice.parent.iterdir() if file.name.startswith(".")]
