"""The command ``quantize``, on the voice that is shipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from wavernn_trt.export.model_directory import file_sha256, open_model_directory
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice
from wavernn_trt.scripts.cli import main

RATE = 16000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of what the voice itself says: of those it is sure, and rounding costs it something."""
    folder = tmp_path_factory.mktemp("clips")
    with Vocoder.load(shipped_voice(), "onnxruntime", threads=1) as vocoder:
        waveform = vocoder.vocode(np.load(shipped_voice().parent / "sample_mel.npy")[:, :100])
    for number, part in enumerate(np.split(waveform, 5)):
        soundfile.write(folder / f"{number}.wav", part, RATE)
    return folder


@pytest.fixture(scope="module")
def table(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.json"
    assert main(["calibrate", str(shipped_voice()), str(clips / "0.wav"), "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture
def quantize(capsys: Any, tmp_path: Path) -> Run:
    """A function (arguments) -> the exit code, and what was written to stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        common = ["quantize", str(shipped_voice()), "-o", str(tmp_path / "out"), "--steps", "4", "--threads", "1"]
        code = main([*common, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_one_command_takes_speech_and_a_model_to_int8(quantize: Run, clips: Path, tmp_path: Path) -> None:
    code, out, err = quantize("--precision", "int8", "--speech", clips, "--json", "-q")
    assert (code, err) == (0, "")
    report = json.loads(out)
    made = open_model_directory(tmp_path / "out")
    assert made.quantization is not None
    assert {name: str(p) for name, p in made.quantization.products.items()} == dict.fromkeys(
        ("recurrent_0", "fc_0", "output"), "int8"
    )
    assert report["table_sha256"] == made.quantization.table == file_sha256(tmp_path / "out.json")
    assert [Path(one["input"]).name for one in report["held_out"]] == ["3.wav"]
    assert not list(tmp_path.glob(".*.partial"))
    assert [product["precision"] for product in report["products"]] == ["int8"] * 3
    assert all(isinstance(product["loss_alone"], float) for product in report["products"])
    assert 0.9 < report["products"][0]["bound"] <= 1.0
    wavs = [str(clips / "2.wav"), "-o", str(tmp_path / "said.wav"), "-q"]
    assert main(["vocode", *wavs, "--model", str(made.path)]) == 0
    assert soundfile.info(tmp_path / "said.wav").frames == 4200


def test_a_budget_keeps_the_most_harmful(quantize: Run, table: Path, clips: Path, tmp_path: Path) -> None:
    arguments = ("--precision", "fp8", "--table", table, "--held-out", clips / "2.wav", "-q")
    code, out, err = quantize(*arguments, "--json")
    assert code == 0, err
    whole = json.loads(out)
    harms = {product["name"]: product["loss_alone"] for product in whole["products"]}
    most = max(harms, key=lambda name: harms[name])
    assert whole["loss"] > 0
    code, out, err = quantize(*arguments, "--budget", 0.9 * whole["loss"], "--overwrite")
    assert code == 0, err
    kept = next(line for line in out.splitlines() if line.startswith(most))
    assert kept.split()[1] == "fp32"
    assert kept.endswith("kept for the budget")
    made = open_model_directory(tmp_path / "out").quantization
    assert made is not None
    assert most not in made.products


def test_where_nothing_is_within_the_budget_nothing_is_written(
    quantize: Run, table: Path, clips: Path, tmp_path: Path
) -> None:
    arguments = ("--keep", "recurrent_0,fc_0", "--table", table, "--held-out", clips / "1.wav", "-q")
    code, out, err = quantize("--precision", "fp8", *arguments, "--budget", 1e-9)
    assert code == 1
    assert "no product can be fp8; nothing is written" in err
    assert "kept for the budget" in out
    assert not (tmp_path / "out").exists()


def test_products_are_kept_by_name_and_weights_alone_need_no_table(quantize: Run, tmp_path: Path) -> None:
    code, out, err = quantize("--precision", "int8-weights", "--keep", "output,fc_0")
    assert code == 0, err
    made = open_model_directory(tmp_path / "out").quantization
    assert made is not None
    assert {name: str(p) for name, p in made.products.items()} == {"recurrent_0": "int8 weights"}
    assert "loss not measured" in out


def test_what_was_calibrated_on_is_no_held_out_speech(quantize: Run, table: Path, clips: Path) -> None:
    code, _, err = quantize("--precision", "int8", "--table", table, "--held-out", clips / "0.wav", "-q")
    assert code == 0
    assert "0.wav was used for calibration" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "int4"), "found 'int4', expected one of int8, fp8, int8-weights, fp8-weights"),
        (("--precision", "int8"), "make one with: wavernn-trt calibrate"),
        (("--precision", "int8-weights", "--keep", "fc_7"), "found 'fc_7', expected some of recurrent_0, fc_0, output"),
        (
            ("--precision", "int8-weights", "--keep", "output,fc_0,recurrent_0"),
            "found all products; leave at least one",
        ),
        (("--precision", "int8-weights", "--budget", "0.01"), "name some with --held-out"),
        (("--precision", "int8-weights", "--speech", "x.wav"), "has no activation ranges"),
        (("--precision", "int8", "--method", "best", "--table", "t"), "found 'best', expected one of minmax"),
        (("--precision", "int8-weights", "--held-out", "EMPTY"), "in this folder"),
        (("--precision", "int8", "--table", "EMPTY/none.json"), "No such file"),
    ],
)
def test_mistakes_are_named_before_any_work(
    quantize: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = quantize(*(word.replace("EMPTY", str(tmp_path / "empty")) for word in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_recordings_that_cannot_be_used_are_told_and_the_others_measured_on(
    quantize: Run, clips: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    (tmp_path / "twice").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "twice" / name).write_bytes((clips / "1.wav").read_bytes())
    arguments = ("--precision", "int8-weights", "--held-out", tmp_path / "twice", bad, "--json", "-q")
    code, out, err = quantize(*arguments)
    assert code == 1
    report = json.loads(out)
    assert [Path(one["input"]).name for one in report["held_out"]] == ["a.wav"]
    assert [one["input"] for one in report["failed"]] == [str(bad)]
    assert "bad.wav" in err
    assert open_model_directory(tmp_path / "out").quantization is not None


def test_a_table_that_is_there_is_not_replaced_unasked(quantize: Run, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("mine")
    code, _, err = quantize("--precision", "int8", "--speech", clips, "-q")
    assert code == 2
    assert "use it with --table" in err
    assert (tmp_path / "out.json").read_text() == "mine"


def test_the_source_is_never_replaced(tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "voice"
    shutil.copytree(shipped_voice(), copy)
    code = main(["quantize", str(copy), "-o", str(copy), "--precision", "int8-weights", "--overwrite"])
    assert code == 2
    assert "choose another output" in capsys.readouterr().err
    assert open_model_directory(copy).quantization is None


def test_a_quantised_directory_is_not_quantised_again(quantize: Run, tmp_path: Path, capsys: Any) -> None:
    assert quantize("--precision", "int8-weights")[0] == 0
    code = main(["quantize", str(tmp_path / "out"), "--precision", "int8-weights", "-o", str(tmp_path / "again")])
    assert code == 2
    assert "is quantised already" in capsys.readouterr().err
    assert quantize("--precision", "int8-weights")[0] == 2  # and what is there is not replaced unasked


def test_silence_is_nothing_to_measure_on(quantize: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(4000, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), RATE)
    files = [tmp_path / name for name in ("nan.wav", "silent.wav")]
    code, _, err = quantize("--precision", "int8-weights", "--held-out", *files, "-q")
    assert code == 2
    assert "nan.wav: found NaN" in err
    assert "silent.wav: found silence" in err
    assert "none of the recordings to measure on can be used" in err
    assert not (tmp_path / "out").exists()
