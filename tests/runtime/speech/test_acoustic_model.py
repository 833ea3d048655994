"""The acoustic model at run time: prosody, blocks of a mel, and damaged directories."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_voice import SMALL_ACOUSTIC, SMALL_VOICE

from wavernn_trt.export.acoustic.directory import open_acoustic_directory
from wavernn_trt.export.model_directory import ModelDirectoryError, write_manifest
from wavernn_trt.runtime.speech import acoustic_model
from wavernn_trt.runtime.speech.acoustic_model import BLOCK, FIRST_BLOCK, ConvolutionalAcousticModel, Prosody

PHONEMES = "hWl Ap, stQnz. fI njuz!"


@pytest.fixture(scope="module")
def model() -> ConvolutionalAcousticModel:
    return ConvolutionalAcousticModel.load(SMALL_ACOUSTIC)


@pytest.fixture
def prosody(model: ConvolutionalAcousticModel) -> Prosody:
    return model.prosody(PHONEMES)


def whole(model: ConvolutionalAcousticModel, prosody: Prosody) -> Any:
    return np.concatenate(list(model.mel(prosody)), 1)


def test_every_known_phoneme_has_prosody_and_others_are_left_out(model: ConvolutionalAcousticModel) -> None:
    found = model.prosody("a\u03b8b c")
    assert found.symbols == ("_", "a", "b", " ", "c", "_")
    assert found.places == (-1, 0, 2, 3, 4, -1)
    assert found.durations.shape == found.f0.shape == found.energy.shape == (6,)
    assert (found.durations >= 0).all()
    assert (found.f0 > 0).all()


def test_a_mel_has_the_frames_of_its_phonemes_in_the_models_range(
    model: ConvolutionalAcousticModel, prosody: Prosody
) -> None:
    blocks = list(model.mel(prosody))
    assert [block.shape[1] for block in blocks][:2] == [FIRST_BLOCK, BLOCK]
    mel = np.concatenate(blocks, 1)
    low, high = model.audio.mel_range
    assert mel.shape == (80, prosody.frames)
    assert abs(prosody.frames - prosody.durations.sum()) <= 0.5
    assert low <= mel.min() < mel.max() <= high


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_of_any_size_give_the_same_mel(
    model: ConvolutionalAcousticModel, prosody: Prosody, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(model, prosody)
    monkeypatch.setattr(acoustic_model, "FIRST_BLOCK", size)
    monkeypatch.setattr(acoustic_model, "BLOCK", size)
    np.testing.assert_allclose(whole(model, prosody), expected, atol=1e-5)


def test_a_part_of_a_sentence_depends_only_on_near_phonemes(model: ConvolutionalAcousticModel) -> None:
    """Margins bound what a frame reads: the ends of two texts that differ at their beginnings only are equal."""
    one, other = (model.prosody(first + "lorem ipsum dolor sit amet, consectetur adipiscing") for first in ("ab", "zy"))
    np.testing.assert_allclose(one.durations[-20:], other.durations[-20:], atol=1e-5)
    fixed = np.full(len(one.symbols), 6, np.float32)
    first, second = (whole(model, dataclasses.replace(prosody, durations=fixed)) for prosody in (one, other))
    np.testing.assert_allclose(first[:, -60:], second[:, -60:], atol=1e-5)
    assert np.abs(first[:, :12] - second[:, :12]).max() > 1e-3


def test_durations_are_scaled_without_a_growing_error(model: ConvolutionalAcousticModel, prosody: Prosody) -> None:
    for speed in (0.25, 0.7, 1.3, 4.0):
        scaled = prosody.scaled(speed=speed)
        assert abs(scaled.frames - prosody.durations.sum() / speed) <= 0.5
        assert whole(model, scaled).shape[1] == scaled.frames
        exact = np.cumsum(prosody.durations, dtype=np.float64) / speed
        assert np.abs(scaled.ends - exact).max() <= 0.5 + 1e-3


def test_pitch_of_one_phoneme_changes_the_mel_near_it_only(model: ConvolutionalAcousticModel, prosody: Prosody) -> None:
    f0 = prosody.f0.copy()
    f0[1] *= 2
    expected, found = whole(model, prosody), whole(model, dataclasses.replace(prosody, f0=f0))
    changed = np.flatnonzero(np.abs(found - expected).max(0) > 1e-6)
    start, stop = prosody.ends[0], prosody.ends[1]
    assert len(changed)
    assert start - 3 <= changed[0] <= changed[-1] < stop + 3  # its decoder reads three frames


def test_frames_have_the_pitch_that_was_asked_for(model: ConvolutionalAcousticModel, prosody: Prosody) -> None:
    features, factors = model._features(prosody)
    _, higher = model._features(prosody.scaled(pitch=1.25))
    (plain,) = model._frames.run(["sounding"], {"frames": features, "factor": factors})
    (scaled,) = model._frames.run(["sounding"], {"frames": features, "factor": higher})
    assert (plain > 0).sum() > 20
    np.testing.assert_allclose(scaled, 1.25 * plain, rtol=1e-5)


def test_energy_changes_the_mel(model: ConvolutionalAcousticModel, prosody: Prosody) -> None:
    louder = dataclasses.replace(prosody, energy=prosody.energy + 6)
    assert np.abs(whole(model, louder) - whole(model, prosody)).max() > 1e-3


def test_a_vocoder_is_no_acoustic_model() -> None:
    with pytest.raises(ModelDirectoryError, match=r"does not list encoder\.onnx, expected an acoustic model"):
        open_acoustic_directory(SMALL_VOICE)


@pytest.mark.parametrize("name", ["encoder.onnx", "frames.onnx"])
def test_a_damaged_graph_is_refused(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(SMALL_ACOUSTIC, tmp_path / "model"))
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match=f"{name} is damaged: its SHA-256 is not the manifest's"):
        ConvolutionalAcousticModel.load(path)


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("acoustic", "encoder_margin", 0, "acoustic.encoder_margin: found 0, expected at least 1"),
        ("acoustic", "symbols", ["a", "a"], "acoustic.symbols: found"),
        ("acoustic", "energy_deviation", 2.0, "acoustic.energy_deviation: found 2.0, expected 0 to 1"),
        ("audio", "n_mels", "many", "audio.n_mels"),
        (None, "schema_version", 99, "schema version 99, this wavernn-trt reads 1"),
    ],
)
def test_an_invalid_configuration_is_refused_with_its_field(
    tmp_path: Path, section: str | None, field: str, value: object, words: str
) -> None:
    path = Path(shutil.copytree(SMALL_ACOUSTIC, tmp_path / "model"))
    values = json.loads((path / "config.json").read_text())
    (values[section] if section else values)[field] = value
    (path / "config.json").write_text(json.dumps(values))
    write_manifest(path)
    with pytest.raises(ModelDirectoryError) as raised:
        open_acoustic_directory(path)
    assert words in str(raised.value)
    assert "export the acoustic model again" in str(raised.value)
