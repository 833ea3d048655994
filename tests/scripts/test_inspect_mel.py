"""``wavernn-trt inspect DIR --mel M --recording R``: whether a mel fits the shipped voice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.features import mel_spectrogram, mel_to_magnitude
from wavernn_trt.scripts.cli import main

RECORDING = Path(__file__).resolve().parents[2] / "runtime" / "voices" / "samples" / "lj-speech" / "LJ001-0029.wav"


@pytest.fixture
def mel() -> Any:
    """The recording's mel as the shipped voice takes it."""
    audio = open_model_directory(SMALL_VOICE).audio
    waveform, _ = soundfile.read(RECORDING, dtype="float32")
    return mel_spectrogram(waveform * np.float32(audio.peak or 1) / np.abs(waveform).max(), audio)


def inspect(*arguments: object) -> int:
    return main(["inspect", str(SMALL_VOICE), *map(str, arguments)])


def test_a_mel_that_fits_exits_with_0(mel: Any, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "mel.npy", mel)
    assert inspect("--mel", tmp_path / "mel.npy", "--recording", RECORDING) == 0
    out = capsys.readouterr().out
    assert "mel.npy fits the model; compared with the model's own features of" in out
    assert "0.00 dB off" in out
    assert "family" not in out


def test_a_mel_that_does_not_fit_exits_with_1_and_its_conversion_is_printed(
    mel: Any, tmp_path: Path, capsys: Any
) -> None:
    audio = open_model_directory(SMALL_VOICE).audio
    np.save(tmp_path / "mel.npy", np.log(mel_to_magnitude(mel, audio)).astype(np.float32).T)
    assert inspect("--mel", tmp_path / "mel.npy", "--recording", RECORDING) == 1
    out = capsys.readouterr().out
    assert "mel.npy does not fit the model" in out
    assert "\ntransposed\n" in out
    assert "convert   pass mel.T" in out
    assert "\nlog base\n  found     ln(magnitude), natural logarithm" in out
    assert "expected  20 log10(magnitude) - 20, with -80 dB mapped to -1 and 0 dB to 0" in out
    assert "convert   model_mel = 0.108574 * mel - 0.25, not below -1" in out
    assert "--mel-from tacotron2" in out


def test_json_has_the_faults_and_the_affine_conversion(mel: Any, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "mel.npy", mel + 1)
    assert inspect("--mel", tmp_path / "mel.npy", "--recording", RECORDING, "--json") == 1
    values = json.loads(capsys.readouterr().out)
    assert values["fits"] is False
    assert values["identified"] is True
    assert [fault["kind"] for fault in values["faults"]] == ["normalisation range"]
    assert values["faults"][0]["convertible"] is True
    assert (values["scale"], values["offset"]) == (1.0, -1.0)
    assert values["deviation_db"] == pytest.approx(80, abs=0.1)
    np.save(tmp_path / "mel.npy", mel)
    assert inspect("--mel", tmp_path / "mel.npy", "--recording", RECORDING, "--json") == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []


def test_a_fault_without_a_known_cause_is_reported_as_such(mel: Any, tmp_path: Path, capsys: Any) -> None:
    rough = mel + np.random.default_rng(0).normal(0, 0.05, mel.shape)
    np.save(tmp_path / "mel.npy", rough.astype(np.float32))
    assert inspect("--mel", tmp_path / "mel.npy", "--recording", RECORDING) == 1
    assert "the cause is not identified" in capsys.readouterr().out


def test_a_mel_alone_is_checked_for_shape_and_range(mel: Any, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "mel.npy", mel)
    assert inspect("--mel", tmp_path / "mel.npy") == 0
    assert "--recording R also compares" in capsys.readouterr().out
    np.save(tmp_path / "mel.npy", mel.T)
    assert inspect("--mel", tmp_path / "mel.npy") == 1
    assert "it looks transposed: pass mel.T" in capsys.readouterr().out
    np.save(tmp_path / "mel.npy", -0.2 + 0.1 * mel)
    assert inspect("--mel", tmp_path / "mel.npy", "--json") == 1
    assert "where speech has more than 30 dB" in json.loads(capsys.readouterr().out)["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recording", str(RECORDING)], "--recording: found no --mel, expected the mel"),
        (["--mel", "mel.npy", "--probe"], "--probe: found it together with --mel"),
        (["--mel", "absent.npy", "--recording", str(RECORDING)], "absent.npy: No such file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: Any) -> None:
    assert inspect(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_plan_cannot_be_compared_with_a_mel(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.plan").touch()
    assert main(["inspect", str(tmp_path / "a.plan"), "--mel", "m.npy"]) == 2
    assert "expected the model directory that it was built from" in capsys.readouterr().err
