"""The command ``calibrate`` on the shipped voice."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx_graphsurgeon", reason="the graph is built with it")

from small_voice import SMALL_VOICE

from wavernn_trt.calibration.table import METHODS, read_table
from wavernn_trt.export.model_directory import open_model_directory

Command = Callable[..., tuple[int, str, str]]
RATE = 16000


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, samples, rate in (("a.wav", 900, RATE), ("b.flac", 1500, 22050)):
        soundfile.write(folder / name, rng.normal(0, 0.1, samples), rate)
    return folder


@pytest.fixture
def calibrate(command: Command) -> Command:
    """A function (arguments behind the model directory) -> the exit code, stdout and stderr."""
    return partial(command, "calibrate", SMALL_VOICE)


def test_a_table_is_written_and_printed(clips: Path, tmp_path: Path, calibrate: Command) -> None:
    output = tmp_path / "new" / "voice.json"
    code, out, err = calibrate(clips, "-o", output, "--threads", 1)
    assert code == 0, err
    table = read_table(output)
    table.check(open_model_directory(SMALL_VOICE))
    assert [one.name for one in table.inputs] == ["a.wav", "b.flac"]
    head, *lines, total = out.splitlines()
    assert head.split() == ["product", "values", "largest", *METHODS]
    assert [line.split()[0] for line in lines] == ["recurrent_0", "fc_0", "output"]
    assert total == f"{output}: 2 files, 0.1 s; the bounds above are for int8"
    assert "calibrating" in err
    assert "is little" in err
    assert list(output.parent.iterdir()) == [output]


def test_an_existing_table_is_replaced_only_with_overwrite(clips: Path, tmp_path: Path, calibrate: Command) -> None:
    output = tmp_path / "voice.json"
    output.write_text("mine")
    code, out, err = calibrate(clips, "-o", output, "-q")
    assert (code, out) == (2, "")
    assert "already exists; --overwrite replaces it" in err
    assert output.read_text() == "mine"
    code, _, err = calibrate(clips, "-o", clips, "--overwrite")
    assert code == 2
    assert "already exists; name a file" in err
    arguments = ("-o", output, "--overwrite", "--json", "-q")
    code, out, err = calibrate(clips, *arguments)
    assert code == 0, err
    report = json.loads(out)
    assert report["sha256"] == read_table(output).sha256
    assert report["failed"] == []
    assert set(report["products"]) == {"recurrent_0", "fc_0", "output"}
    assert report["seconds"] == pytest.approx(sum(file["samples"] for file in report["files"]) / RATE)


def test_one_bad_file_does_not_stop_the_rest(clips: Path, tmp_path: Path, calibrate: Command) -> None:
    (clips / "bad.wav").write_bytes(b"RIFF....")
    soundfile.write(clips / "silent.wav", np.zeros(900), RATE)
    code, out, err = calibrate(clips, "-o", tmp_path / "voice.json", "--json", "-q")
    assert code == 1
    report = json.loads(out)
    assert sorted(Path(one["input"]).name for one in report["failed"]) == ["bad.wav", "silent.wav"]
    assert len(report["files"]) == 2
    assert err.count("failed:") == 2
    assert "found silence" in err


def test_after_ctrl_c_the_same_command_continues(
    clips: Path, tmp_path: Path, calibrate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavernn_trt.scripts.progress import ProgressBar

    output, partial = tmp_path / "voice.json", tmp_path / ".voice.json.partial"

    def interrupted(self: ProgressBar, samples: int) -> None:
        if partial.exists():
            raise KeyboardInterrupt

    arguments = (clips, "-o", output, "--batch", 1, "-q")
    monkeypatch.setattr(ProgressBar, "decoded", interrupted)
    code, out, err = calibrate(*arguments)
    assert (code, out) == (130, "")
    assert f"interrupted; {partial} keeps the results so far; the same command continues" in err
    monkeypatch.undo()
    code, out, err = calibrate(*arguments)
    assert code == 0
    assert "1 of 2 files are done" in err
    assert not partial.exists()


def test_mels_are_decoded_with_the_given_seed(tmp_path: Path, calibrate: Command) -> None:
    mel = np.random.default_rng(0).uniform(-1, 0, (80, 4)).astype(np.float32)
    np.save(tmp_path / "mel.npy", mel)
    output = tmp_path / "voice.json"
    code, _, err = calibrate(tmp_path, "-o", output, "--seed", 3, "-q")
    assert code == 0, err
    table = read_table(output)
    assert (table.forced, table.seed) == (False, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("empty",), "empty: found no recordings (.wav, "),
        (("silent.wav",), "none of the files can be used"),
        (("clips", "mel.npy"), "expected one kind"),
        (("clips", "--seed", "-1"), "expected an integer from 0"),
        ((), "SPEECH"),
    ],
)
def test_wrong_usage_exits_2(
    clips: Path, monkeypatch: pytest.MonkeyPatch, calibrate: Command, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(clips.parent)
    np.save("mel.npy", np.zeros((20, 4), np.float32))
    soundfile.write("silent.wav", np.zeros(900), RATE)
    Path("empty").mkdir()
    code, out, err = calibrate(*arguments, "-o", "voice.json", "-q")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not Path("voice.json").exists()


def test_mels_in_a_folder_of_recordings_are_left_out(clips: Path, calibrate: Command, caplog: Any) -> None:
    np.save(clips / "a.npy", np.zeros((20, 4), np.float32))
    code, _, err = calibrate(clips, "-o", clips.parent / "voice.json", "-q")
    assert code == 0, err
    assert "left out 1 file that is no recording: .npy 1" in caplog.text
