"""Presenting a voice: its figures, samples and picture, and its row in the README."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("matplotlib", reason="spectrograms are drawn with matplotlib")


from small_voice import SMALL_VOICE

from wavernn_trt.scripts.training import present
from wavernn_trt.scripts.training.listening_page import write_page

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
    arguments = [SMALL_VOICE, tmp_path / "tone.flac", "-o", out, "--name", "mine", "--seconds", "0.25"]
    assert present.main([str(argument) for argument in arguments]) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "index.html",
        "mine.json",
        "mine.png",
        "tone-mine.wav",
        "tone.wav",
    ]
    result = json.loads((out / "mine.json").read_text())
    assert 0 < result["bits"] < np.inf
    assert max(result["correlation"]) < result["ceiling"] < 1
    assert result["seconds"] == pytest.approx(0.5, abs=0.01)
    assert len(result["distortion_db"]) == len(result["level_db"]) == 3
    assert "words_wrong" not in result
    assert result["bytes"] == sum(file.stat().st_size for file in SMALL_VOICE.iterdir())
    assert 0 < result["real_time_factor"]["least"] <= result["real_time_factor"]["median"]
    assert capsys.readouterr().out == present.row(result) + "\n"
    original, rate = soundfile.read(out / "tone.wav")
    output, _ = soundfile.read(out / "tone-mine.wav")
    assert rate == 16000
    assert len(original) == len(output) == 4000
    assert np.abs(original).max() == pytest.approx(0.7, abs=0.01)


def test_the_page_has_every_voice_of_its_folder(tmp_path: Path) -> None:
    figures = {"bits": 4.1, "correlation": [0.9, 0.93, 0.92], "real_time_factor": {"median": 0.25}}
    for name, listen in (("one", ["clip", "other"]), ("<two>", ["clip"])):
        (tmp_path / f"{len(listen)}.json").write_text(json.dumps({"voice": name, "listen": listen, **figures}))
    write_page(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert re.findall(r'data-file="([^"]+)"', page) == [
        "clip.wav",
        "clip-&lt;two&gt;.wav",
        "clip-one.wav",
        "other.wav",
        "other-one.wav",
    ]
    assert page.count("<td>0.920 (0.900 … 0.930)</td>") == 2
    assert "<two>" not in page
    (tmp_path / "3.json").write_text("{}")
    with pytest.raises(ValueError, match=r"3\.json: expected a file of figures"):
        write_page(tmp_path)


def test_a_missing_recording_exits_2_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert present.main([str(SMALL_VOICE), str(tmp_path / "none.wav"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "none.wav: no such file or folder" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_readme_has_the_published_figures() -> None:
    readme = (ROOT / "README.md").read_text()
    files = sorted(PUBLISHED.glob("*/*.json"))
    assert files
    for file in files:
        assert present.row(json.loads(file.read_text())) in readme
    assert sum(file.stat().st_size for file in PUBLISHED.glob("*/*.wav")) <= 500_000
