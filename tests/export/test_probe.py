"""The probe record of a model directory: how it is measured, stored and read back."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.calibration.likelihood import bits_of_samples
from wavernn_trt.export.config import ColumnGroup, ModelConfig
from wavernn_trt.export.model_directory import (
    PROBE,
    ModelDirectoryError,
    open_model_directory,
    read_audio,
    read_listed,
    write_manifest,
)
from wavernn_trt.export.probe_measures import bits_of_steps, displacements
from wavernn_trt.export.probe_record import ProbeRecord, read_probe, write_probe
from wavernn_trt.runtime.vocoder import shipped_voice

CLASSES = ModelConfig("univoc", "categorical", 8, 4, (3,), (3,), (ColumnGroup("mel", 12, "held"),), mu_law=True)
MIXTURE = dataclasses.replace(CLASSES, family="coqui", output="logistic_mixture", outputs=30, mu_law=False)
GAUSSIAN = dataclasses.replace(MIXTURE, output="gaussian", outputs=2)


MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


@pytest.fixture
def directory() -> Path:
    """A small model directory, as it was exported."""
    return MODELS / "univoc"


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "voice"))


def read(path: Path) -> ProbeRecord | None:
    opened = open_model_directory(path)
    return read_probe(path, opened.model, opened.audio)


def test_a_record_is_of_its_own_model(directory: Path) -> None:
    pytest.importorskip("torch", reason="the record is made by the PyTorch modules")
    from wavernn_trt.export import read_checkpoint
    from wavernn_trt.export.probe import make_probe

    record, checkpoint = read(directory), read_checkpoint(directory)
    assert record is not None
    again = make_probe(checkpoint.model, checkpoint.audio)
    np.testing.assert_array_equal(record.mel, again.mel)
    np.testing.assert_array_equal(record.samples, again.samples)
    np.testing.assert_allclose(record.logits, again.logits, atol=1e-6)
    assert record.bits == pytest.approx(again.bits)
    assert min(dataclasses.astuple(record.bfloat16)) > 0


def test_equal_records_have_equal_bytes(directory: Path, tmp_path: Path) -> None:
    """A plan's key has the manifest's hash in it: a record with the time of day would cost a build."""
    record = read(directory)
    assert record is not None
    write_probe(tmp_path / PROBE, record)
    assert (tmp_path / PROBE).read_bytes() == (directory / PROBE).read_bytes()
    with zipfile.ZipFile(tmp_path / PROBE) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_shipped_voice_has_a_small_record() -> None:
    path = shipped_voice()
    record = read(path)
    assert record is not None
    assert (path / PROBE).stat().st_size < 12_000
    assert len(record.samples) == 1000
    assert len(np.unique(record.samples)) > 50
    assert 3 < record.bits < 5


def test_the_mel_has_the_models_own_range() -> None:
    pytest.importorskip("torch", reason="records are measured on PyTorch's modules")
    from wavernn_trt.export.probe import probe_mel

    audio = read_audio(shipped_voice())
    for changes in ({}, {"mel_range": (0.0, 1.0)}, {"mel_range": (-4.0, 4.0)}, {"hop_length": 8192}, {"hop_length": 1}):
        mel = probe_mel(dataclasses.replace(audio, **changes))
        low, high = dataclasses.replace(audio, **changes).mel_range
        assert low <= mel.min() < mel.max() <= high
        assert mel.max() - mel.min() > 0.7 * (high - low)
        assert 4 <= mel.shape[1] <= 64
    natural = probe_mel(dataclasses.replace(audio, log="natural"))
    assert -11.6 < natural.min() < -4
    assert 0 < natural.max() < 2


def test_a_directory_without_a_record_opens(copy: Path) -> None:
    (copy / PROBE).unlink()
    write_manifest(copy)
    assert read(copy) is None


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes arrays of a record, and lists its new hash in the manifest."""
    with np.load(path / PROBE, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path / PROBE, **arrays)
    write_manifest(path)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no archive": (lambda d: (d / PROBE).write_bytes(b"mel"), "export the checkpoint again"),
    "cut off": (lambda d: (d / PROBE).write_bytes((d / PROBE).read_bytes()[:900]), "export the checkpoint again"),
    "pickled": (
        lambda d: rewritten(d, lambda a: a.update(samples=np.array([{"a": 1}], object))),
        "allow_pickle=False",
    ),
    "lacking logits": (lambda d: rewritten(d, lambda a: a.pop("logits")), "logits"),
    "of another layout": (lambda d: rewritten(d, lambda a: a.update(version=np.array(9))), "version 9"),
    "of another mel": (lambda d: rewritten(d, lambda a: a.update(mel=a["mel"][:-1])), r"mel is float32 \(5, "),
    "of numbers for classes": (
        lambda d: rewritten(d, lambda a: a.update(samples=a["samples"].astype(np.float32))),
        "samples is float32",
    ),
    "of other outputs": (lambda d: rewritten(d, lambda a: a.update(logits=a["logits"][:, 1:])), "logits is float32"),
    "of steps behind the end": (lambda d: rewritten(d, lambda a: a.update(steps=a["steps"] + 9999)), "steps outside"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_record_that_cannot_be_used_is_refused(copy: Path, name: str) -> None:
    damage, message = BROKEN[name]
    damage(copy)
    write_manifest(copy)
    with pytest.raises(ModelDirectoryError, match=message):
        read(copy)


def test_a_record_that_the_manifest_does_not_list_is_refused(copy: Path) -> None:
    opened = open_model_directory(copy)
    content = bytearray((copy / PROBE).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / PROBE).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match="SHA-256"):
        read_probe(copy, opened.model, opened.audio)
    with pytest.raises(ModelDirectoryError, match=r"probe\.npz is damaged"):
        open_model_directory(copy)
    (copy / PROBE).unlink()
    with pytest.raises(ModelDirectoryError, match="No such file"):
        read_listed(copy, PROBE)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"][PROBE]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / PROBE).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match=r"does not list probe\.npz"):
        open_model_directory(copy)


def test_audio_settings_can_be_read_without_the_other_files(copy: Path) -> None:
    audio = open_model_directory(copy).audio
    for file in copy.iterdir():
        if file.name not in ("config.json", "manifest.json"):
            file.unlink()
    assert read_audio(copy) == audio
    (copy / "config.json").write_text("{}")
    with pytest.raises(ModelDirectoryError, match=r"config\.json is damaged"):
        read_audio(copy)
    write_manifest(copy)
    with pytest.raises(ModelDirectoryError, match="audio: found None, expected an object"):
        read_audio(copy)


def random_logits(model: ModelConfig, seed: int, steps: int = 40) -> Any:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (steps, model.outputs))
    if model.output != "categorical":
        logits[:, -model.outputs // 3 :] -= 3  # log-scales
    return logits.astype(np.float32)


def drawn(model: ModelConfig, logits: Any, numbers: Any) -> Any:
    torch = pytest.importorskip("torch", reason="the samplers are PyTorch modules")
    from wavernn_trt.export.families.samplers import CategoricalSampler, GaussianSampler, LogisticMixtureSampler

    sampler = {
        "categorical": lambda: CategoricalSampler(model.outputs, label_feedback=True),
        "logistic_mixture": LogisticMixtureSampler,
        "gaussian": GaussianSampler,
    }[model.output]()
    return sampler(torch.from_numpy(logits), torch.from_numpy(numbers))[0].numpy()


def random_numbers(model: ModelConfig, seed: int, steps: int = 40) -> Any:
    random = np.random.default_rng(seed)
    numbers = random.uniform(1e-4, 1 - 1e-4, (steps, 1))
    if model.output != "categorical":
        numbers = np.concatenate([numbers, random.logistic(size=(steps, 1))], axis=1)
    return numbers.astype(np.float32)


@given(st.sampled_from([CLASSES, MIXTURE, GAUSSIAN]), st.integers(0, 2**32))
def test_samples_drawn_from_the_same_numbers_are_not_displaced(model: ModelConfig, seed: int) -> None:
    logits, numbers = random_logits(model, seed), random_numbers(model, seed + 1)
    found = displacements(model, logits, numbers, drawn(model, logits, numbers))
    assert found.max() < 1e-6


@given(st.integers(0, 2**32), st.floats(1e-4, 3.0))
def test_a_class_is_displaced_by_at_most_the_error_of_the_distribution(seed: int, error: float) -> None:
    right, numbers = random_logits(CLASSES, seed), random_numbers(CLASSES, seed + 1)
    wrong = right + np.random.default_rng(seed + 2).normal(0, error, right.shape).astype(np.float32)
    found = displacements(CLASSES, right, numbers, drawn(CLASSES, wrong, numbers))
    distance = np.abs(np.cumsum(softmax(right), axis=1) - np.cumsum(softmax(wrong), axis=1)).max(axis=1)
    assert (found <= distance + 1e-6).all()


def test_the_displacement_of_a_class_is_the_distance_to_its_interval() -> None:
    logits, numbers = np.zeros((2, 8), np.float32), np.array([[0.06], [0.06]], np.float32)  # the first of eight
    found = displacements(CLASSES, logits, numbers, np.array([1, 7]))
    np.testing.assert_allclose(found, [0.125 - 0.06, 0.875 - 0.06], atol=1e-6)


def test_the_displacement_in_a_mixture_is_half_the_distance_or_that_of_components() -> None:
    logits = np.full((3, 30), -9.0, np.float32)
    logits[:, :2] = 0.0  # two components of one half each,
    logits[:, 10:12] = [-0.5, 0.5]  # at these means, and narrow
    numbers = np.array([[0.25, 0.0]] * 3, np.float32)  # the first of them
    found = displacements(MIXTURE, logits, numbers, np.array([-0.5, -0.4, 0.5], np.float32))
    np.testing.assert_allclose(found, [0.0, 0.05, 0.25], atol=1e-3)


def softmax(logits: Any) -> Any:
    values = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("model", [CLASSES, MIXTURE, GAUSSIAN], ids=["classes", "mixture", "gaussian"])
def test_bits_are_those_of_scoring(model: ModelConfig) -> None:
    """Where components are wide against a step of 16 bits, a density times the step is the integral over it."""
    logits, numbers = random_logits(model, 3), random_numbers(model, 4)
    samples = drawn(model, logits, numbers)
    inside = np.abs(samples) < 1 if model.output != "categorical" else samples >= 0
    expected = bits_of_samples(model, logits, samples)
    np.testing.assert_allclose(bits_of_steps(model, logits, samples)[inside], expected[inside], atol=1e-3)
    assert math.isfinite(bits_of_steps(model, logits, samples).sum())
