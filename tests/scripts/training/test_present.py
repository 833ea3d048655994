"""Presenting a voice: its figures, samples and picture, and its row in the README."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("matplotlib", reason="spectrograms are drawn with matplotlib")

from wavernn_trt.runtime.vocoder import shipped_voice
from wavernn_trt.scripts.training import present

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "runtime" / "voices" / "samples"


def test_a_voice_is_measured_and_its_samples_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(present, "_ROUNDS", 1)
    time = np.arange(8000) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 200 * time) + 0.01 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "tone.flac", tone, 16000)
    out = tmp_path / "out"
    arguments = [shipped_voice(), tmp_path / "tone.flac", "-o", out, "--name", "mine", "--seconds", "0.25"]
    assert present.main([str(argument) for argument in arguments]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["mine.json", "mine.png", "tone-mine.wav", "tone.wav"]
    result = json.loads((out / "mine.json").read_text())
    assert 0 < result["bits"] < np.inf
    assert max(result["correlation"]) < result["ceiling"] < 1
    assert result["seconds"] == pytest.approx(0.5, abs=0.01)
    assert result["bytes"] == (shipped_voice() / "decoder.weights").stat().st_size
    assert 0 < result["real_time_factor"]["least"] <= result["real_time_factor"]["median"]
    assert capsys.readouterr().out == present.row(result) + "\n"
    original, rate = soundfile.read(out / "tone.wav")
    output, _ = soundfile.read(out / "tone-mine.wav")
    assert rate == 16000
    assert len(original) == len(output) == 4000
    assert np.abs(original).max() == pytest.approx(0.7, abs=0.01)


def test_a_missing_recording_exits_2_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert present.main([str(shipped_voice()), str(tmp_path / "none.wav"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "none.wav: No such file or directory" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_readme_has_the_published_figures() -> None:
    readme = (ROOT / "README.md").read_text()
    files = sorted(PUBLISHED.glob("*.json"))
    assert files
    for file in files:
        assert present.row(json.loads(file.read_text())) in readme
    assert sum(file.stat().st_size for file in PUBLISHED.glob("*.wav")) <= 300_000
