"""Recognition of the published version of a checkpoint; where it is ambiguous, the error names the presets."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.settings.presets import PRESETS
from wavernn_trt.export.settings.table import AUDIO_FIELDS
from wavernn_trt.runtime.sample_coding import SampleCoding

RESUMED: dict[str, Any] = {"optimizer": {}, "global_step": 3, "global_epoch": 1}
"""What G-Wang's and geneing's training stores beside ``state_dict``."""


def _save(state: dict[str, Any], folder: Path, entry: str, **beside: Any) -> Path:
    torch.save({entry: state, **beside}, folder / "c.pt")
    return folder / "c.pt"


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_complete(preset: Any) -> None:
    audio = AudioConfig(**preset.audio)
    assert set(preset.adjustable) <= {*AUDIO_FIELDS, "mu_law"}
    assert audio.hop_length == preset.audio["hop_length"]
    assert (preset.mode in ("mol", "mold", "gauss", "beta")) == (preset.mu_law is None)


@pytest.mark.parametrize(
    ("entry", "beside", "outputs", "preset"),
    [
        ("model_state", {"optimizer_state": {}}, 16, "rtvc"),
        ("model", {"optim": {}, "config": None}, 16, "forwardtacotron-v2"),
        ("model", {"optimizer": {}, "step": 1, "epoch": 1}, 16, "coqui"),
        ("state_dict", RESUMED, 30, "gwang-mixture"),
        ("state_dict", {"best_loss": 1.0}, 16, "fatchord"),
        ("state_dict", {"global_step": 3, "epoch": 1, "pytorch-lightning_version": "1.9"}, 30, "fatchord"),
    ],
)
def test_a_version_follows_from_the_entries(
    entry: str, beside: dict[str, Any], outputs: int, preset: str, reference: ModuleType, tmp_path: Path
) -> None:
    state = reference.random_state(dataclasses.replace(reference.SMALL, outputs=outputs))
    read = read_checkpoint(_save(state, tmp_path, entry, **beside))
    assert read.preset == preset
    assert any(line.startswith(f"read as {preset} ") for line in read.notes)
    assert read.audio == AudioConfig(**{**PRESETS[preset].audio, "n_mels": 6, "hop_length": 6})


def test_univoc_s_versions_differ_by_an_entry(reference: ModuleType, tmp_path: Path) -> None:
    state = reference.random_univoc_state()
    training: dict[str, Any] = {"optimizer": {}, "scheduler": {}, "step": 1}
    old = read_checkpoint(_save(state, tmp_path, "model", **training))
    assert (old.preset, old.model.config.label_scale) == ("univoc-0.1", "symmetric")
    new = read_checkpoint(_save(state, tmp_path, "model", scaler={}, **training))
    assert (new.preset, new.model.config.label_scale) == ("univoc-0.2", "librosa")
    with pytest.raises(CheckpointError, match=r"--preset univoc-0\.1 .* or --preset univoc-0\.2"):
        read_checkpoint(_save(state, tmp_path, "model"))
    assert read_checkpoint(tmp_path / "c.pt", preset="univoc-0.1").audio.mel_range == (0.0, 1.0)


def test_an_entry_model_alone_is_ambiguous(reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference.random_state(), tmp_path, "model")
    with pytest.raises(CheckpointError, match=r"--preset coqui .* or --preset fatchord"):
        read_checkpoint(path)
    assert read_checkpoint(path, family="fatchord").audio.mel_range == (0.0, 1.0)


def test_classes_of_g_wang_are_ambiguous(reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference.random_state(), tmp_path, "state_dict", **RESUMED)
    with pytest.raises(CheckpointError, match=r"16 classes are linear or mu-law companded.*--preset gwang-bits"):
        read_checkpoint(path)
    linear = read_checkpoint(path, preset="gwang-bits")
    assert not linear.model.config.mu_law
    assert linear.assumed == ()
    (tmp_path / "hparams.json").write_text(json.dumps({"input_type": "mulaw", "mulaw_quantize_channels": 16}))
    assert read_checkpoint(path).model.config.amplitude_feedback


@pytest.mark.parametrize("kind", ["mulaw-quantize", "", None, ["mulaw"]])
def test_an_unknown_input_type_is_not_guessed(kind: object, reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference.random_state(), tmp_path, "state_dict", **RESUMED)
    (tmp_path / "hparams.json").write_text(json.dumps({"input_type": kind}))
    with pytest.raises(CheckpointError, match=r"input_type: found .* in hparams\.json, expected raw, mixture, bits or"):
        read_checkpoint(path)
    assert read_checkpoint(path, preset="gwang-mulaw").model.config.amplitude_feedback
    (tmp_path / "hparams.json").write_text(json.dumps({"input_type": "MuLaw"}))
    assert read_checkpoint(path).preset == "gwang-mulaw"


@pytest.mark.parametrize("layers", [1, 2])
def test_two_outputs_are_ambiguous(layers: int, reference: ModuleType, tmp_path: Path) -> None:
    layout = dataclasses.replace(reference.SMALL, outputs=2, layers=layers, fc_sizes=(7,) * layers)
    path = _save(reference.random_state(layout), tmp_path, "state_dict", **RESUMED)
    with pytest.raises(CheckpointError, match="2 outputs"):
        read_checkpoint(path)
    assert read_checkpoint(path, mode="gauss", family="turian" if layers == 1 else "fatchord").model.config.output == (
        "gaussian"
    )
    settings = {"input_type": "raw", "distribution": "beta"}
    (tmp_path / "hparams.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="beta distribution, which is not supported"):
        read_checkpoint(path)


def test_one_gru_with_a_mixture_is_read(reference: ModuleType, tmp_path: Path) -> None:
    layout = dataclasses.replace(reference.SMALL, outputs=30, layers=1, fc_sizes=(7,))
    read = read_checkpoint(_save(reference.random_state(layout), tmp_path, "state_dict", **RESUMED))
    assert (read.model.config.family, read.model.config.output) == ("turian", "logistic_mixture")


def test_a_preset_that_does_not_fit_is_refused(fatchord: Path) -> None:
    for name in ("fatcord", {"a": 1}):
        with pytest.raises(CheckpointError, match="expected one of fatchord, rtvc"):
            read_checkpoint(fatchord, preset=name)
    with pytest.raises(CheckpointError, match="turian is of the family turian, found the tensors of a fatchord or"):
        read_checkpoint(fatchord, preset="turian")
    with pytest.raises(CheckpointError, match="beta distribution, which is not supported"):
        read_checkpoint(fatchord, preset="gwang-beta")


def test_fed_back_amplitudes_are_the_decoded_ones(fatchord: Path) -> None:
    read = read_checkpoint(fatchord, preset="gwang-mulaw")
    values = read.model.sampler.values.numpy()
    companded = 2 * np.arange(16) / 15 - 1
    expected = np.sign(companded) * (np.exp(np.abs(companded) * math.log(16)) - 1) / 15
    np.testing.assert_allclose(values, expected, atol=1e-7)
    coding = SampleCoding(read.model.config, read.audio)
    assert coding.feedback(np.arange(16)).tolist() == values.tolist()
    np.testing.assert_allclose(coding.waveform(np.arange(16)), expected, atol=1e-7)
