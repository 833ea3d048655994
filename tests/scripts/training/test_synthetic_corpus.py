"""A synthetic corpus: clips and labels agree, sentences are split, interrupted runs continue."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("hibari", reason="the corpus is spoken by hibari-tts (extra 'train')")
pytest.importorskip("onnx", reason="durations are read from the speaker's ONNX graph")

from wavernn_trt.scripts.training import synthetic_corpus

SENTENCES = """\
The first books were printed in black letter.
No.
Printing is comparatively modern.
The first books were printed in black letter.

The blocks were of wood. They were cut in relief!
They took impressions from them for centuries.
"""


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text(SENTENCES)
    return path


def make(sentences: Path, output: Path, *options: str) -> int:
    return synthetic_corpus.main([str(sentences), str(output), "--kept-out", "1", *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_clips_have_labels_of_their_length_and_each_sentence_is_in_one_part(
    sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus"
    assert make(sentences, out) == 0
    captured = capsys.readouterr()
    parts = [sorted(path.stem for path in (out / part).glob("*.flac")) for part in ("kept-out", "training")]
    assert [len(names) for names in parts] == [1, 3]
    assert sorted(parts[0] + parts[1]) == ["s00000", "s00002", "s00003", "s00004"]  # "No." is too short
    seconds = 0.0
    for path in out.rglob("*.flac"):
        waveform, rate = soundfile.read(path)
        labels = np.load(path.with_suffix(".npz"))
        assert rate == 16000
        assert np.abs(waveform).max() == pytest.approx(0.7, abs=1e-4)
        assert len(waveform) == 200 * len(labels["f0"]) == 400 * labels["durations"].sum()
        assert len(labels["ids"]) == len(labels["durations"])
        assert 100 < np.median(labels["f0"][labels["f0"] > 40]) < 350
        seconds += len(waveform) / rate if path.parent.name == "training" else 0
    assert json.loads(captured.out) == {"training_hours": round(seconds / 3600, 3), "folder": str(out)}
    assert "the sentences suffice for 0.00 hours only" in captured.err
    texts = dict(line.split("|") for part in out.glob("*/metadata.csv") for line in part.read_text().splitlines())
    assert texts["s00003"] == "The blocks were of wood. They were cut in relief!"
    assert str(np.load(next(out.rglob("s00003.npz")))["phonemes"]).count("\n") == 1
    about = json.loads((out / "corpus.json").read_text())
    assert about["speaker"]["version"] == "0.2.1"
    assert "Kokoro-82M" in about["origin"]
    assert "Kokoro-82M" in (out / "NOTICE").read_text()


def test_a_run_continues_where_one_stopped_and_the_seed_decides_everything(sentences: Path, tmp_path: Path) -> None:
    whole, halves, other = tmp_path / "whole", tmp_path / "halves", tmp_path / "other"
    assert make(sentences, whole) == 0
    assert make(sentences, halves, "--hours", "0.0005") == 0
    first = {path: path.stat().st_mtime_ns for path in halves.glob("training/*.flac")}
    assert 1 <= len(first) < 3
    assert make(sentences, halves) == 0
    assert contents(halves) == contents(whole)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert make(sentences, other, "--seed", "1") == 0
    assert contents(other / "training").keys() != contents(whole / "training").keys()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (b"\xff\n", [], "expected UTF-8 text"),
        (b"\n", [], "found no sentence"),
        (b"One sentence.\n", [], "1 sentences, expected more than --kept-out"),
        (SENTENCES.encode(), ["--seed", "-1"], "--seed: found -1"),
        (SENTENCES.encode(), ["--seed", "7"], "found a corpus of other sentences, seed or version"),
    ],
)
def test_unusable_input_exits_2(
    sentences: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: bytes,
    options: list[str],
    message: str,
) -> None:
    sentences.write_bytes(text)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.json").write_text("{}")
    assert make(sentences, tmp_path / "corpus", *options) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "corpus").rglob("*.flac"))
