"""The command ``score`` on the shipped voice."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_voice import SMALL_VOICE

Command = Callable[..., tuple[int, str, str]]
RATE = 16000


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, samples, rate in (("a.wav", 900, RATE), ("deep/b.flac", 1500, 22050)):
        soundfile.write(folder / name, rng.normal(0, 0.1, samples), rate)
    return folder


@pytest.fixture
def score(command: Command) -> Command:
    """A function (arguments behind the model directory) -> the exit code, stdout and stderr."""
    return partial(command, "score", SMALL_VOICE)


def test_each_file_is_scored_and_the_totals_are_means_over_samples(clips: Path, score: Command) -> None:
    code, out, err = score(clips, "--seconds", 0.04, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [Path(entry["input"]).name for entry in report["files"]] == ["a.wav", "b.flac"]
    assert [entry["samples"] for entry in report["files"]] == [900, 1088]
    totals = report["totals"]
    assert (totals["scored"], totals["failed"], totals["samples"]) == (2, 0, 1988)
    assert totals["bits"] == pytest.approx(sum(e["bits"] * e["samples"] for e in report["files"]) / 1988)
    for entry in (*report["files"], totals):
        assert 0 < entry["bits"] < 30
        assert -1 <= entry["correlation"] <= 1
    assert "bits" in err
    assert "correlation" in err


def test_teacher_forcing_alone_prints_bits_without_correlation(clips: Path, score: Command) -> None:
    code, out, err = score(clips / "a.wav", "--teacher-forced-only", "--quiet")
    assert (code, err) == (0, "")
    head, line, total = out.splitlines()
    assert head.split() == ["bits", "correlation", "MCD/dB", "level/dB", "clipped", "seconds", "recording"]
    assert line.split()[1:6] == ["-", "-", "-", "-", "0.06"]
    assert line.split()[0] == total.split()[0]


def test_one_bad_file_does_not_stop_the_rest(clips: Path, score: Command) -> None:
    (clips / "bad.wav").write_bytes(b"RIFF....")
    arguments = ("--teacher-forced-only", "--json", "--quiet")
    code, out, err = score(clips, clips / "gone.wav", *arguments)
    assert code == 1
    report = json.loads(out)
    errors = {Path(entry["input"]).name: entry["error"] for entry in report["files"]}
    assert [name for name, error in errors.items() if error] == ["bad.wav", "gone.wav"]
    assert report["totals"]["scored"] == 2
    assert report["totals"]["bits"] > 0
    assert err.count("failed:") == 2
    assert "No such file" in err
    code, out, _ = score(clips / "bad.wav", *arguments)
    assert code == 1
    assert json.loads(out)["totals"]["bits"] is None


def test_hidden_files_and_folders_are_left_out(clips: Path, score: Command) -> None:
    (clips / ".hidden.wav").write_bytes(b"as macOS writes beside a.wav")
    (clips / "folder.wav").mkdir()
    code, out, _ = score(clips, "--teacher-forced-only", "--json", "-q")
    assert code == 0
    assert [Path(entry["input"]).name for entry in json.loads(out)["files"]] == ["a.wav", "b.flac"]


def test_missing_inputs_are_reported_before_the_model_is_loaded(command: Command) -> None:
    code, out, err = command("score", "no-model", "nowhere.wav", "neither.wav")
    assert (code, out) == (2, "")
    assert "nowhere.wav: no such file or folder" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mel.npy",), "found a mel spectrogram, expected a recording"),
        (("empty",), "empty: found no recordings (.wav, "),
        (("clips", "--seconds", "1e-9"), "at least a sample's length"),
        (("clips", "--seed", "-1"), "expected an integer from 0"),
        (("clips", "--backend", "abacus"), "expected one of"),
        ((), "SPEECH"),
    ],
)
def test_wrong_usage_exits_2(
    clips: Path, monkeypatch: pytest.MonkeyPatch, score: Command, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(clips.parent)
    np.save("mel.npy", np.zeros((80, 4), np.float32))
    Path("empty").mkdir()
    code, out, err = score(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_several_precisions_make_a_table_of_losses(clips: Path, score: Command) -> None:
    arguments = ("--precision", "fp32,bf16,int8-weights", "-q")
    code, out, err = score(clips / "a.wav", *arguments, "--seconds", 0.02)
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split()[:4] == ["precision", "bits", "loss", "correlation"]
    assert [row.split()[0] for row in rows] == ["fp32", "bf16", "int8-weights"]
    losses = [abs(float(row.split()[2])) for row in rows]
    assert losses[0] == 0 < losses[2]
    assert losses[1] < losses[2]
    assert score(clips / "a.wav", clips / "gone.wav", *arguments, "--teacher-forced-only")[0] == 1


def test_precisions_that_round_activations_need_a_table(
    clips: Path, tmp_path: Path, command: Command, score: Command
) -> None:
    table = tmp_path / "table.json"
    wav = str(clips / "a.wav")
    code, _, err = score(wav, "--precision", "int8")
    assert code == 2
    assert "wavernn-trt calibrate" in err
    assert score(wav, "--table", table)[0] == 2
    assert command("calibrate", SMALL_VOICE, wav, "-o", table, "-q")[0] == 0
    arguments = ("--precision", "fp32,int8,fp8", "--table", table, "--teacher-forced-only", "--json", "-q")
    code, out, err = score(wav, *arguments)
    assert code == 0, err
    reports = {report["precision"]: report["totals"]["bits"] for report in json.loads(out)}
    assert list(reports) == ["fp32", "int8", "fp8"]
    assert len(set(reports.values())) == 3
    assert max(reports.values()) - min(reports.values()) < 1


def test_truncated_recordings_and_left_out_files_are_reported(clips: Path, score: Command, caplog: Any) -> None:
    path = clips / "a.wav"
    path.write_bytes(path.read_bytes()[:-600])
    np.save(clips / "a.npy", np.zeros((80, 4), np.float32))
    code, out, err = score(clips, "--json", "--teacher-forced-only", "-q")
    assert code == 0
    assert err.count("a.wav: cut short: found 0.04 s of the 0.06 s that its header states") == 1
    assert [len(entry["warnings"]) for entry in json.loads(out)["files"]] == [1, 0]
    assert "left out 1 file that is no recording: .npy 1" in caplog.text


def test_several_seeds_have_a_range(clips: Path, score: Command) -> None:
    arguments = (clips, "--seeds", 3, "--seed", 5, "-q")
    report = json.loads(score(*arguments, "--json")[1])
    totals = report["totals"]
    assert report["seeds"] == [5, 6, 7]
    assert list(totals["by_seed"]) == ["5", "6", "7"]
    found = [measures["distortion_db"] for measures in totals["by_seed"].values()]
    assert len(set(found)) == 3
    assert totals["distortion_db"] == pytest.approx(np.mean(found))
    alone = json.loads(score(clips, "--seed", 6, "-q", "--json")[1])["totals"]
    assert alone["by_seed"]["6"] == pytest.approx(totals["by_seed"]["6"], nan_ok=True)
    lines = score(*arguments)[1].splitlines()
    assert [line.split("  ")[-1] for line in lines[-2:]] == ["least of 3 seeds", "most of 3 seeds"]
    assert float(lines[-2].split()[2]) == pytest.approx(min(found), abs=0.006)
    assert float(lines[-1].split()[2]) == pytest.approx(max(found), abs=0.006)


@pytest.mark.slow
def test_pitch_and_words_are_judged_on_request(clips: Path, score: Command) -> None:
    for package in ("jiwer", "librosa", "pocketsphinx"):
        pytest.importorskip(package, reason="judging needs the extra 'judge'")
    texts = clips.parent / "metadata.csv"
    texts.write_text("a|two words\n")
    code, out, err = score(clips, "--transcripts", texts, "-q")
    assert code == 0, err
    head, a, b, total = out.splitlines()
    assert "voicing" in head
    assert head.split()[-4:] == ["words", "wrong", "seconds", "recording"]
    assert a.split()[-3] == total.split()[-5] == "100.0%/100.0%"
    assert b.split()[-3] == "-/-"
    assert score(clips, "--transcripts", clips.parent / "gone.csv")[0] == 2
