"""A model directory is verified whenever it is opened: its files, their hashes, and its configuration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wavernn_trt
from wavernn_trt.export.model_directory import ModelDirectoryError, file_sha256, open_model_directory, write_manifest

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A copy of a small model directory, to damage."""
    return Path(shutil.copytree(MODELS / "univoc", tmp_path / "voice"))


def test_a_copied_directory_opens(voice: Path) -> None:
    assert open_model_directory(voice).model == open_model_directory(MODELS / "univoc").model


def test_every_file_is_listed_with_its_size_and_hash(voice: Path) -> None:
    manifest = json.loads((voice / "manifest.json").read_text())["files"]
    assert set(manifest) == {file.name for file in voice.iterdir()} - {"manifest.json"}
    for name, entry in manifest.items():
        assert entry == {"sha256": file_sha256(voice / name), "bytes": (voice / name).stat().st_size}


def test_other_paths_are_refused(tmp_path: Path, voice: Path) -> None:
    for path in (tmp_path / "nowhere", voice / "config.json"):
        with pytest.raises(ModelDirectoryError, match="wavernn-trt export"):
            open_model_directory(path)


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
    "an upsampling that is not listed": (
        lambda d: (d / "upsampling.npy").write_bytes(b"x"),
        r"does not list upsampling\.npy",
    ),
    "manifest of brackets": (lambda d: (d / "manifest.json").write_text("[" * 100000), "export the checkpoint"),
    "edited config": (lambda d: edit(d / "config.json", lambda v: v["audio"].update(hop_length=7)), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_directory_is_refused(voice: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(voice)
    with pytest.raises(ModelDirectoryError, match=message):
        open_model_directory(voice)


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda v: v.update(schema_version=99), "schema version 99"),
    "unknown field": (lambda v: v["model"].update(colour="red"), "unknown field 'colour'"),
    "endless hop": (lambda v: v["audio"].update(hop_length=10**12), r"audio\.hop_length: found 1000000000000"),
    "negative margin": (lambda v: v["model"].update(margin=-1), r"model\.margin"),
    "no groups": (lambda v: v["model"].update(groups=[]), r"model\.groups"),
    "unknown expansion": (lambda v: v["model"]["groups"][0].update(expansion="foo"), "expected one of held"),
    "no steps": (lambda v: v["decoder"].update(steps=-5), r"decoder\.steps"),
    "inaudible": (lambda v: v["audio"].update(fmin=1e9), r"audio\.fmin"),
    "no model": (lambda v: v.pop("model"), "model: found None, expected an object"),
}
"""What is wrong within a dataclass is in test_typed_json.py."""


@pytest.mark.parametrize("name", CONFIGS)
def test_an_invalid_configuration_is_refused(voice: Path, name: str) -> None:
    change, message = CONFIGS[name]
    edit(voice / "config.json", change)
    write_manifest(voice)
    with pytest.raises(ModelDirectoryError, match=message):
        open_model_directory(voice)


@pytest.mark.parametrize("change", [{"hidden_size": 17}, {"input_sizes": [4, 4]}])
def test_a_configuration_of_other_sizes_than_the_graphs_is_refused(voice: Path, change: dict[str, Any]) -> None:
    edit(voice / "config.json", lambda values: values["model"].update(change))
    write_manifest(voice)
    with pytest.raises(ModelDirectoryError, match=r"config\.json says .*, the graphs have"):
        wavernn_trt.load(voice, "onnxruntime")


@pytest.mark.parametrize(("preemphasis", "scale"), [(0.0, "librosa"), (0.85, "symmetric")])
def test_a_directory_of_schema_version_1_has_the_label_scale_that_its_samples_had(
    preemphasis: float, scale: str, voice: Path
) -> None:
    values = json.loads((voice / "config.json").read_text())
    values["schema_version"] = 1
    values["audio"]["waveform_preemphasis"] = preemphasis
    for name in ("label_scale", "amplitude_feedback"):
        del values["model"][name]
    for name in ("stft", "floor", "clip_low"):
        del values["audio"][name]
    (voice / "config.json").write_text(json.dumps(values))
    write_manifest(voice)
    directory = open_model_directory(voice)
    assert (directory.model.label_scale, directory.model.amplitude_feedback) == (scale, False)
    assert (directory.audio.stft, directory.audio.floor, directory.audio.clip_low) == ("centred", 1e-5, True)
