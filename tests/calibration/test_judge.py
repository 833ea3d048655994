"""Pitch of tones, words of a recording, and texts of recordings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavernn_trt.calibration import judge as judging
from wavernn_trt.calibration.judge import Judge, Judgement, count_wrong, pitch, read_transcripts, recognise
from wavernn_trt.runtime.errors import VocoderError

RATE = 16000


def tone(hertz: float, seconds: float = 0.6) -> np.ndarray:
    time = np.arange(round(RATE * seconds)) / RATE
    return (0.1 * sum(np.sin(2 * np.pi * k * hertz * time) / k for k in range(1, 8))).astype(np.float32)


def test_texts_are_read_in_the_layout_of_lj_speech(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("a|In 1455.|In fourteen fifty-five.\n\nb|Yes.\n")
    assert read_transcripts(path) == {"a": "In fourteen fifty-five.", "b": "Yes."}
    for content, message in (
        (b"a yes\n", "line 1: expected 'NAME.text'"),
        (b"a|\n", "line 1: expected"),
        (b"a|x\na|y\n", "line 2: found a second text for a"),
        (b"\xff|x\n", "expected UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(VocoderError, match=message):
            read_transcripts(path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(VocoderError, match=r"judging needs jiwer; install it with: pip install '\.\[judge\]'"):
        Judge()


def test_judgements_add_up_and_have_no_measures_where_there_is_nothing() -> None:
    assert set(Judgement().measures().values()) == {None}
    both = Judgement(10, 1, 4, 400.0, 5, 2, 1) + Judgement(10, 3, 6, 600.0, 15, 2, 1)
    assert both.measures() == {
        "f0_error_cents": 10.0,
        "voicing_error": 0.2,
        "words_wrong": 0.2,
        "recording_words_wrong": 0.1,
    }


def test_wrong_words_are_the_fewest_edits() -> None:
    pytest.importorskip("jiwer", reason="words are compared with jiwer (extra 'judge')")
    assert count_wrong("The cat, sat - on it!", "the cat sat on it") == (5, 0)
    assert count_wrong("The cat sat on it", "a cat on it it") == (5, 3)
    assert count_wrong("One two", "") == (2, 2)
    assert count_wrong("...", "word") == (0, 0)


def test_pitch_is_that_of_a_tone_and_none_in_noise() -> None:
    pytest.importorskip("librosa", reason="pitch is found with librosa (extra 'judge')")
    found = pitch(tone(220), RATE)[5:-5]
    assert np.abs(1200 * np.log2(found / 220)).max() < 12
    assert np.isnan(pitch(np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), RATE)).mean() > 0.9


@pytest.mark.slow
def test_pitch_voicing_and_words_of_an_output_are_judged(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("jiwer", "librosa", "pocketsphinx"):
        pytest.importorskip(package, reason="judging needs the extra 'judge'")
    text = "in being comparatively modern"
    recording, rate = soundfile.read(shared_data / "ljspeech" / "LJ001-0002.flac", dtype="float32")
    assert set(text.split()) & set(recognise(recording, rate).split())
    judge = Judge()
    same = judge.judge(recording, recording, rate, text)
    assert same.measures()["f0_error_cents"] == same.measures()["voicing_error"] == 0
    assert same.words == 4
    assert same.wrong == same.wrong_in_recording <= 2
    calls: list[int] = []
    monkeypatch.setattr(judging, "recognise", lambda *_: calls.append(1) or "")
    silent = judge.judge(np.zeros_like(recording), recording, rate, text)
    assert len(calls) == 1  # what was heard in the recording is remembered
    assert (silent.wrong, silent.wrong_in_recording) == (4, same.wrong)
    assert silent.voiced == 0
    assert silent.misvoiced > 0.3 * silent.frames
    low, high = tone(200), tone(206)
    cents = judge.judge(high, low, RATE, None).measures()["f0_error_cents"]
    assert cents == pytest.approx(1200 * np.log2(206 / 200), abs=15)
