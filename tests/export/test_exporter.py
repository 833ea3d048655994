"""From a checkpoint to a model directory: whole or not at all, verified on every opening."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch's")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

import wavernn_trt
from wavernn_trt.export import CheckpointError, export, exporter, read_checkpoint
from wavernn_trt.export.model_directory import ModelDirectoryError, file_sha256, open_model_directory, write_manifest
from wavernn_trt.export.rewrite.check import RewriteError

AUDIO = {"hop_length": 6, "win_length": 24, "n_fft": 64}


@pytest.fixture(scope="module")
def voice(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory, made once."""
    folder = tmp_path_factory.mktemp("voice")
    torch.save({"model": reference.random_univoc_state(), "scaler": {}}, folder / "model-25000.pt")
    export(read_checkpoint(folder / "model-25000.pt", **AUDIO), folder / "voice", steps=8)
    return folder / "voice"


@pytest.fixture
def exported(voice: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(voice, tmp_path / "voice"))


def test_a_model_directory_holds_what_it_should(exported: Path) -> None:
    names = {
        "checkpoint.safetensors",
        "conditioner.onnx",
        "conditioner_blocks.onnx",
        "config.json",
        "decoder.onnx",
        "decoder.weights",
        "decoder_loop.onnx",
        "manifest.json",
        "probe.npz",
        "teacher_forced.onnx",
    }
    assert {file.name for file in exported.iterdir()} == names
    manifest = json.loads((exported / "manifest.json").read_text())["files"]
    assert set(manifest) == names - {"manifest.json"}
    for name, entry in manifest.items():
        assert entry == {"sha256": file_sha256(exported / name), "bytes": (exported / name).stat().st_size}
    directory = open_model_directory(exported)
    assert (directory.decoder.steps, directory.decoder.batch) == (8, 1)
    assert directory.source["checkpoint"] == "model-25000.pt"
    assert directory.source["parameters"] > 500


@pytest.mark.parametrize(("name", "layers", "steps"), [("univoc", 1, 1024), ("fatchord", 2, 128)])
def test_unrolled_steps_are_one_plugin_node_a_cell_and_weights_stand_once(
    name: str, layers: int, steps: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint = read_checkpoint(request.getfixturevalue(name), hop_length=6)
    result = export(checkpoint, tmp_path / "voice", steps, batch=2, verify=True)
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


def test_a_directory_can_be_exported_again(exported: Path, tmp_path: Path) -> None:
    export(exported, tmp_path / "longer", steps=20, batch=3)
    again = open_model_directory(tmp_path / "longer")
    assert (again.decoder.steps, again.decoder.batch) == (20, 3)
    assert again.model == open_model_directory(exported).model
    assert again.audio == open_model_directory(exported).audio
    assert again.source == open_model_directory(exported).source
    mel = np.random.default_rng(0).uniform(-1, 0, (6, 5)).astype(np.float32)
    one, other = wavernn_trt.load(exported), wavernn_trt.load(tmp_path / "longer")
    np.testing.assert_array_equal(one.vocode(mel, seed=3), other.vocode(mel, seed=3))


def test_temperature_is_applied_once_however_often_a_voice_is_exported(
    univoc: Path, voice: Path, tmp_path: Path
) -> None:
    """Of the very weights of `voice`."""
    export(read_checkpoint(univoc, temperature=0.5, **AUDIO), tmp_path / "cool", steps=2)
    export(tmp_path / "cool", tmp_path / "again", steps=2)
    mel = np.random.default_rng(0).uniform(-1, 0, (6, 3)).astype(np.float32)
    samples = np.arange(18) % 16
    logits = [
        wavernn_trt.load(tmp_path / name, backend=backend).teacher_forced(mel, samples)
        for name in ("cool", "again")
        for backend in ("onnxruntime", "torch")
    ]
    plain = wavernn_trt.load(voice).teacher_forced(mel, samples)
    for found in logits:
        np.testing.assert_allclose(found, 2 * plain, rtol=1e-4, atol=1e-4)


def test_an_existing_place_is_not_replaced_unasked(exported: Path, univoc: Path, tmp_path: Path) -> None:
    before = (exported / "manifest.json").read_bytes()
    checkpoint = read_checkpoint(univoc, **AUDIO)
    with pytest.raises(ModelDirectoryError, match="--overwrite"):
        export(checkpoint, exported, steps=4)
    assert (exported / "manifest.json").read_bytes() == before
    export(checkpoint, exported, steps=4, overwrite=True)
    assert open_model_directory(exported).decoder.steps == 4
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


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda d: flip(d / "decoder.weights"), r"decoder\.weights is damaged"),
    "truncated": (lambda d: (d / "decoder.onnx").write_bytes(b"\0"), r"decoder\.onnx is damaged: 1 bytes"),
    "missing": (lambda d: (d / "conditioner.onnx").unlink(), r"conditioner\.onnx is missing"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "not a model directory"),
    "manifest of nothing": (lambda d: (d / "manifest.json").write_text("{}"), "no list of files"),
    "manifest not JSON": (lambda d: (d / "manifest.json").write_text("{"), "export the checkpoint again"),
    "manifest in bytes": (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe"), "export the checkpoint again"),
    "manifest a list": (lambda d: (d / "manifest.json").write_text("[]"), "expected an object"),
    "manifest incomplete": (
        lambda d: edit(d / "manifest.json", lambda v: v["files"].pop("decoder.onnx")),
        r"does not list decoder\.onnx",
    ),
    "manifest without the conditioner of blocks": (
        lambda d: edit(d / "manifest.json", lambda v: v["files"].pop("conditioner_blocks.onnx")),
        r"does not list conditioner_blocks\.onnx",
    ),
    "manifest pointing outside": (
        lambda d: edit(d / "manifest.json", lambda v: v["files"].update({"../x": {"sha256": "", "bytes": 0}})),
        "not an entry of a model directory",
    ),
    "manifest without the checkpoint": (
        lambda d: edit(d / "manifest.json", lambda v: v["files"].pop("checkpoint.safetensors")),
        r"does not list checkpoint\.safetensors",
    ),
    "an upsampling smuggled in": (lambda d: (d / "upsampling.npy").write_bytes(b"x"), r"does not list upsampling\.npy"),
    "manifest nested without end": (lambda d: (d / "manifest.json").write_text("[" * 100000), "export the checkpoint"),
    "edited config": (lambda d: edit(d / "config.json", lambda v: v["audio"].update(hop_length=7)), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_directory_is_refused(exported: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(exported)
    with pytest.raises(ModelDirectoryError, match=message):
        open_model_directory(exported)
    with pytest.raises(CheckpointError):
        read_checkpoint(exported)


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda v: v.update(schema_version=99), "schema version 99"),
    "unknown field": (lambda v: v["model"].update(colour="red"), "unknown field 'colour'"),
    "missing field": (lambda v: v["audio"].pop("sample_rate"), "sample_rate"),
    "wrong type": (lambda v: v["model"].update(hidden_size="big"), r"model\.hidden_size: found 'big'"),
    "impossible": (lambda v: v["audio"].update(hop_length=-1), r"audio\.hop_length: found -1"),
    "endless hop": (lambda v: v["audio"].update(hop_length=10**12), r"audio\.hop_length: found 1000000000000"),
    "negative margin": (lambda v: v["model"].update(margin=-1), r"model\.margin"),
    "no groups": (lambda v: v["model"].update(groups=[]), r"model\.groups"),
    "unknown expansion": (lambda v: v["model"]["groups"][0].update(expansion="foo"), "expected one of held"),
    "half an input": (lambda v: v["model"].update(input_sizes=[1.5]), r"model\.input_sizes"),
    "no steps": (lambda v: v["decoder"].update(steps=-5), r"decoder\.steps"),
    "inaudible": (lambda v: v["audio"].update(fmin=1e9), r"audio\.fmin"),
    "unknown family": (lambda v: v["model"].update(family="wavenet"), "expected one of univoc"),
    "no model": (lambda v: v.pop("model"), "model: found None, expected an object"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_cannot_be_right_is_refused(exported: Path, name: str) -> None:
    change, message = CONFIGS[name]
    edit(exported / "config.json", change)
    config = exported / "config.json"
    entry = {"sha256": file_sha256(config), "bytes": config.stat().st_size}
    edit(exported / "manifest.json", lambda values: values["files"].update({"config.json": entry}))
    with pytest.raises(ModelDirectoryError, match=message):
        open_model_directory(exported)


@pytest.mark.parametrize("change", [{"hidden_size": 17}, {"input_sizes": [4, 4]}])
def test_a_config_of_other_sizes_than_the_graphs_is_refused(exported: Path, change: dict[str, Any]) -> None:
    config = exported / "config.json"
    edit(config, lambda values: values["model"].update(change))
    entry = {"sha256": file_sha256(config), "bytes": config.stat().st_size}
    edit(exported / "manifest.json", lambda values: values["files"].update({"config.json": entry}))
    with pytest.raises(ModelDirectoryError, match=r"config\.json says .*, the graphs have"):
        wavernn_trt.load(exported)


def test_a_replacement_that_fails_leaves_the_old_voice(
    exported: Path, univoc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".old." not in str(target) and ".old." not in str(self):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    before = (exported / "manifest.json").read_bytes()
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        export(read_checkpoint(univoc, **AUDIO), exported, steps=4, overwrite=True)
    assert (exported / "manifest.json").read_bytes() == before
    assert not [file.name for file in exported.parent.iterdir() if file.name.startswith(".")]


def test_what_is_no_directory_is_refused(tmp_path: Path, exported: Path) -> None:
    for path in (tmp_path / "nowhere", exported / "config.json"):
        with pytest.raises(ModelDirectoryError, match="wavernn-trt export"):
            open_model_directory(path)


def test_a_copied_directory_opens(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    assert open_model_directory(tmp_path / "copy").model == open_model_directory(exported).model


@pytest.mark.parametrize(("preemphasis", "scale"), [(0.0, "librosa"), (0.85, "symmetric")])
def test_a_directory_of_schema_version_1_has_the_label_scale_that_its_samples_had(
    preemphasis: float, scale: str, exported: Path
) -> None:
    values = json.loads((exported / "config.json").read_text())
    values["schema_version"] = 1
    values["audio"]["waveform_preemphasis"] = preemphasis
    for name in ("label_scale", "amplitude_feedback"):
        del values["model"][name]
    for name in ("stft", "floor", "clip_low"):
        del values["audio"][name]
    (exported / "config.json").write_text(json.dumps(values))
    write_manifest(exported)
    directory = open_model_directory(exported)
    assert (directory.model.label_scale, directory.model.amplitude_feedback) == (scale, False)
    assert (directory.audio.stft, directory.audio.floor, directory.audio.clip_low) == ("centred", 1e-5, True)
