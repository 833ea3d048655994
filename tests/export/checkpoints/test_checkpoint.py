"""`read_checkpoint` reads weights and model directories: family, output, temperature."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from wavernn_trt.export.model_directory import (
    CHECKPOINT,
    CONDITIONER,
    DECODER,
    DECODER_LOOP,
    TEACHER_FORCED,
    UPSAMPLING,
    WEIGHTS,
    DecoderShape,
    file_sha256,
    write_config,
    write_manifest,
)


def _same_outputs(ours: Checkpoint, theirs: Checkpoint, scale: float = 1.0) -> None:
    model = ours.model.config
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(model.layers, 2, model.hidden_size, generator=generator)
    row = torch.randn(2, model.columns, generator=generator)
    with torch.no_grad():
        first, _ = ours.model.step(torch.zeros(2), hidden, row)
        second, _ = theirs.model.step(torch.zeros(2), hidden, row)
    np.testing.assert_allclose(first.numpy(), second.numpy() * scale, rtol=1e-6)


def test_weights_keep_their_names_and_values(fatchord: Path, reference: ModuleType) -> None:
    checkpoint = read_checkpoint(fatchord)
    expected = reference.random_state()
    assert checkpoint.state.keys() == expected.keys()
    assert all(torch.equal(checkpoint.state[name], expected[name]) for name in expected)
    assert checkpoint.path == fatchord
    assert checkpoint.sha256 == file_sha256(fatchord)


def test_the_format_from_before_torch_1_6_is_read(reference: ModuleType, tmp_path: Path) -> None:
    torch.save(reference.random_state(), tmp_path / "new.pyt")
    torch.save(reference.random_state(), tmp_path / "old.pyt", _use_new_zipfile_serialization=False)
    assert (tmp_path / "old.pyt").read_bytes()[:2] != b"PK"
    _same_outputs(read_checkpoint(tmp_path / "old.pyt"), read_checkpoint(tmp_path / "new.pyt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, reference: ModuleType, tmp_path: Path) -> None:
    torch.save({name: value.to(dtype) for name, value in reference.random_state().items()}, tmp_path / "a.pt")
    assert {value.dtype for value in read_checkpoint(tmp_path / "a.pt").state.values()} == {torch.float32}


def test_data_parallel_names_are_read(fatchord: Path, reference: ModuleType, tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in reference.random_state().items()}
    wrapped["module.step"] = torch.tensor([7])
    torch.save({"state_dict": wrapped, "optimizer": {}}, tmp_path / "parallel.pt")
    _same_outputs(read_checkpoint(tmp_path / "parallel.pt"), read_checkpoint(fatchord))


def test_family_follows_from_the_tensors(fatchord: Path, coqui: Path, univoc: Path) -> None:
    found = [read_checkpoint(path).model.config.family for path in (fatchord, coqui, univoc)]
    assert found == ["fatchord", "coqui", "univoc"]


def test_one_recurrent_and_two_dense_layers_are_turian(reference: ModuleType, tmp_path: Path) -> None:
    layout = dataclasses.replace(reference.SMALL, layers=1, fc_sizes=(7,))
    torch.save(reference.random_state(layout), tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.model.config.family == "turian"
    assert checkpoint.model.config.input_sizes == (8,)
    assert checkpoint.audio.mel_range == (-4.0, 4.0)
    assert not checkpoint.model.config.mu_law


def test_the_user_can_choose_between_families_with_equal_names(coqui: Path) -> None:
    assert read_checkpoint(coqui, family="fatchord").model.config.family == "fatchord"


def test_a_family_that_the_tensors_contradict_is_refused(fatchord: Path) -> None:
    with pytest.raises(CheckpointError, match="found the tensors of a fatchord checkpoint, expected univoc's"):
        read_checkpoint(fatchord, family="univoc")
    with pytest.raises(CheckpointError, match="found 'nv', expected one of univoc, fatchord"):
        read_checkpoint(fatchord, family="nv")


@pytest.mark.parametrize(
    ("outputs", "mode", "expected"),
    [
        (16, None, "categorical"),
        (16, 4, "categorical"),
        (16, "4", "categorical"),
        (16, "RAW", "categorical"),
        (30, None, "logistic_mixture"),
        (30, "mold", "logistic_mixture"),
        (2, None, "gaussian"),
        (2, "gauss", "gaussian"),
        (2, 1, "categorical"),
    ],
)
def test_output_follows_from_width_and_mode(
    outputs: int, mode: object, expected: str, reference: ModuleType, tmp_path: Path
) -> None:
    layout = dataclasses.replace(reference.SMALL, outputs=outputs)
    torch.save({"model": reference.random_state(layout), "optimizer": {}}, tmp_path / "model.pth")
    assert read_checkpoint(tmp_path / "model.pth", mode=mode).model.config.output == expected


@pytest.mark.parametrize(
    ("outputs", "settings", "message"),
    [
        (16, {"mode": 5}, "found 5 bits for 16 outputs"),
        (16, {"mode": "mol"}, "expected a power of two for classes, 30 for a mixture"),
        (16, {"mode": "gauss"}, "found 16 outputs, gaussian; expected a power of two for classes, 30 for a mixture"),
        (16, {"mode": "beta"}, "found beta, a beta distribution, which is not supported"),
        (2, {}, r"found 2 outputs, which are a Gaussian \(--set mode=gauss\), classes of 1 bit"),
        (16, {"mode": "flow"}, "found 'flow', expected raw, bits"),
        (16, {"mode": True}, "found True, expected raw, bits"),
        (17, {}, "found 17 outputs, categorical; expected a power of two"),
        (30, {"temperature": 0.9}, "only class logits can be divided"),
        (30, {"mu_law": True}, "found True for outputs that are not classes"),
        (16, {"temperature": 0}, "temperature: found 0, expected a positive number"),
        (16, {"temperature": "hot"}, "temperature: found 'hot'"),
        (16, {"mu_law": 2}, "mu_law: found 2, expected True or False"),
    ],
)
def test_contradictory_modes_are_refused(
    outputs: int, settings: dict[str, Any], message: str, reference: ModuleType, tmp_path: Path
) -> None:
    torch.save(reference.random_state(dataclasses.replace(reference.SMALL, outputs=outputs)), tmp_path / "a.pyt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.pyt", **settings)


def test_temperature_divides_the_logits_and_does_not_change_the_stored_weights(fatchord: Path) -> None:
    plain, tempered = read_checkpoint(fatchord), read_checkpoint(fatchord, temperature=0.5)
    assert tempered.model.config.temperature == 0.5
    _same_outputs(tempered, plain, scale=2.0)
    assert torch.equal(tempered.state["fc3.weight"], plain.state["fc3.weight"])


def _directory(checkpoint: Checkpoint, folder: Path) -> Path:
    """A model directory whose graphs are empty files."""
    save_file = pytest.importorskip("safetensors.torch", reason="model directories hold safetensors").save_file
    folder.mkdir()
    for name in (CONDITIONER, DECODER, DECODER_LOOP, TEACHER_FORCED, WEIGHTS):
        (folder / name).write_bytes(b"")
    if checkpoint.model.upsampling is not None:
        np.save(folder / UPSAMPLING, checkpoint.model.upsampling)
    save_file(checkpoint.state, folder / CHECKPOINT)
    write_config(folder, checkpoint.model.config, checkpoint.audio, DecoderShape(1, 1, 5), {})
    write_manifest(folder)
    return folder


def test_a_model_directory_gives_the_same_checkpoint_back(fatchord: Path, tmp_path: Path) -> None:
    original = read_checkpoint(fatchord, temperature=0.7, sample_rate=8000, mu_law=False)
    again = read_checkpoint(_directory(original, tmp_path / "voice"))
    assert again.model.config == original.model.config
    assert again.audio == original.audio
    assert again.assumed == ()
    assert all(torch.equal(again.state[name], original.state[name]) for name in original.state)
    _same_outputs(again, original)
    warmer = read_checkpoint(tmp_path / "voice", temperature=1.4)
    _same_outputs(again, warmer, scale=2.0)


def test_an_ambiguous_output_survives_a_model_directory(reference: ModuleType, tmp_path: Path) -> None:
    state = reference.random_state(dataclasses.replace(reference.SMALL, outputs=2))
    torch.save({"model": state, "optimizer": {}}, tmp_path / "model.pth")
    for mode in ("gauss", 1):
        original = read_checkpoint(tmp_path / "model.pth", mode=mode)
        again = read_checkpoint(_directory(original, tmp_path / f"voice-{mode}"))
        assert again.model.config == original.model.config


def test_other_folders_are_refused(fatchord: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"a folder without manifest\.json, expected a checkpoint file or a model"
    ):
        read_checkpoint(tmp_path)
    folder = _directory(read_checkpoint(fatchord), tmp_path / "voice")
    with pytest.raises(CheckpointError, match="leave config out"):
        read_checkpoint(folder, config="hparams.json")
    with pytest.raises(CheckpointError, match="holds its own settings; leave entry out"):
        read_checkpoint(folder, entry="ema")
    damaged = bytearray((folder / CHECKPOINT).read_bytes())
    damaged[-1] ^= 1
    (folder / CHECKPOINT).write_bytes(damaged)
    with pytest.raises(CheckpointError, match="its SHA-256 is not the manifest's"):
        read_checkpoint(folder)
    (folder / CHECKPOINT).write_bytes(b"\xff" * 40)
    write_manifest(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(folder)
    (folder / CHECKPOINT).unlink()
    write_manifest(folder)
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors is missing"):
        read_checkpoint(folder)
