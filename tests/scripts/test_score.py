"""The command ``score``, on the voice that is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wavernn_trt.runtime.vocoder import shipped_voice
from wavernn_trt.scripts.cli import main

RATE = 16000


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, samples, rate in (("a.wav", 900, RATE), ("deep/b.flac", 1500, 22050)):
        soundfile.write(folder / name, rng.normal(0, 0.1, samples), rate)
    return folder


def run(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    code = main(["score", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_each_file_and_all_of_them_are_scored(clips: Path, capsys: Any) -> None:
    code, out, err = run(capsys, shipped_voice(), clips, "--seconds", 0.04, "--json")
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


def test_bits_alone_as_a_table(clips: Path, capsys: Any) -> None:
    code, out, err = run(capsys, shipped_voice(), clips / "a.wav", "--teacher-forced-only", "--quiet")
    assert (code, err) == (0, "")
    head, line, total = out.splitlines()
    assert head.split() == ["bits", "correlation", "seconds", "recording"]
    assert line.split()[1:3] == ["-", "0.06"]
    assert line.split()[0] == total.split()[0]


def test_one_bad_file_does_not_stop_the_rest(clips: Path, capsys: Any) -> None:
    (clips / "bad.wav").write_bytes(b"RIFF....")
    arguments = ("--teacher-forced-only", "--json", "--quiet")
    code, out, err = run(capsys, shipped_voice(), clips, clips / "gone.wav", *arguments)
    assert code == 1
    report = json.loads(out)
    errors = {Path(entry["input"]).name: entry["error"] for entry in report["files"]}
    assert [name for name, error in errors.items() if error] == ["bad.wav", "gone.wav"]
    assert report["totals"]["scored"] == 2
    assert report["totals"]["bits"] > 0
    assert err.count("failed:") == 2
    assert "No such file" in err


def test_folders_yield_visible_regular_files_only(clips: Path, capsys: Any) -> None:
    (clips / ".hidden.wav").write_bytes(b"what macOS leaves beside a.wav")
    (clips / "folder.wav").mkdir()
    code, out, _ = run(capsys, shipped_voice(), clips, "--teacher-forced-only", "--json", "-q")
    assert code == 0
    assert [Path(entry["input"]).name for entry in json.loads(out)["files"]] == ["a.wav", "b.flac"]


def test_inputs_that_are_all_missing_are_found_before_the_model_is_loaded(capsys: Any) -> None:
    code, out, err = run(capsys, "no-model", "nowhere.wav", "neither.wav")
    assert (code, out) == (2, "")
    assert "nowhere.wav: no such file or folder" in err


def test_all_files_bad(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.wav").write_bytes(b"")
    code, out, _ = run(capsys, shipped_voice(), tmp_path / "bad.wav", "--json", "--quiet")
    assert code == 1
    assert json.loads(out)["totals"]["bits"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mel.npy",), "found a mel spectrogram, expected a recording"),
        (("empty",), "empty: found no recordings (.wav, "),
        (("clips", "--seconds", "0"), "expected a positive number"),
        (("clips", "--seconds", "1e-9"), "at least a sample's length"),
        (("clips", "--seed", "-1"), "expected an integer from 0"),
        (("clips", "--backend", "abacus"), "expected one of"),
        ((), "SPEECH"),
    ],
)
def test_wrong_usage_exits_2(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(clips.parent)
    np.save("mel.npy", np.zeros((80, 4), np.float32))
    Path("empty").mkdir()
    code, out, err = run(capsys, shipped_voice(), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_precisions_stand_in_a_table(clips: Path, capsys: Any) -> None:
    code, out, err = run(
        capsys, shipped_voice(), clips / "a.wav", "--precision", "fp32,bf16,int8-weights", "--seconds", 0.02, "-q"
    )
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split()[:4] == ["precision", "bits", "loss", "correlation"]
    assert [row.split()[0] for row in rows] == ["fp32", "bf16", "int8-weights"]
    losses = [abs(float(row.split()[2])) for row in rows]
    assert losses[0] == 0 < losses[2]
    assert losses[1] < losses[2]


def test_precisions_that_round_activations_need_a_table(clips: Path, tmp_path: Path, capsys: Any) -> None:
    table = tmp_path / "table.json"
    wav = str(clips / "a.wav")
    code, _, err = run(capsys, shipped_voice(), wav, "--precision", "int8")
    assert code == 2
    assert "wavernn-trt calibrate" in err
    assert run(capsys, shipped_voice(), wav, "--table", table)[0] == 2
    assert main(["calibrate", str(shipped_voice()), wav, "-o", str(table), "-q"]) == 0
    capsys.readouterr()
    arguments = ("--precision", "fp32,int8,fp8", "--table", table, "--teacher-forced-only", "--json", "-q")
    code, out, err = run(capsys, shipped_voice(), wav, *arguments)
    assert code == 0, err
    reports = {report["precision"]: report["totals"]["bits"] for report in json.loads(out)}
    assert list(reports) == ["fp32", "int8", "fp8"]
    assert len(set(reports.values())) == 3
    assert max(reports.values()) - min(reports.values()) < 1


def test_a_cut_recording_and_left_out_files_are_reported(clips: Path, capsys: Any, caplog: Any) -> None:
    path = clips / "a.wav"
    path.write_bytes(path.read_bytes()[:-600])
    np.save(clips / "a.npy", np.zeros((80, 4), np.float32))
    code, out, err = run(capsys, shipped_voice(), clips, "--json", "--teacher-forced-only", "-q")
    assert code == 0
    assert err.count("a.wav: cut short: found 0.04 s of the 0.06 s that its header states") == 1
    assert [len(entry["warnings"]) for entry in json.loads(out)["files"]] == [1, 0]
    assert "left out 1 file that is no recording: .npy 1" in caplog.text
