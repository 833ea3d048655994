"""The command ``quantize`` on the shipped voice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from wavernn_trt.export.model_directory import file_sha256, open_model_directory
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice
from wavernn_trt.scripts.cli import main

RATE = 16000
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of the voice's own output, for which it has few bits and rounding a clear loss."""
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
def quantize(command: Command, tmp_path: Path) -> Command:
    """A function (further arguments) -> the exit code, stdout and stderr; the output is tmp_path / "out"."""
    return partial(command, "quantize", shipped_voice(), "-o", tmp_path / "out", "--steps", 4, "--threads", 1)


def test_one_command_makes_an_int8_model_from_speech(quantize: Command, clips: Path, tmp_path: Path) -> None:
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
    wavs = [str(clips / "2.wav"), "-o", str(tmp_path / "speech.wav"), "-q"]
    assert main(["vocode", *wavs, "--model", str(made.path)]) == 0
    assert soundfile.info(tmp_path / "speech.wav").frames == 4200


@pytest.mark.slow
def test_a_budget_leaves_the_product_with_the_largest_loss_alone(
    quantize: Command, table: Path, clips: Path, tmp_path: Path
) -> None:
    arguments = ("--precision", "fp8", "--table", table, "--held-out", clips / "2.wav", "-q")
    code, out, err = quantize(*arguments, "--json")
    assert code == 0, err
    whole = json.loads(out)
    losses = {product["name"]: product["loss_alone"] for product in whole["products"]}
    most = max(losses, key=lambda name: losses[name])
    assert whole["loss"] > 0
    code, out, err = quantize(*arguments, "--budget", 0.9 * whole["loss"], "--overwrite")
    assert code == 0, err
    kept = next(line for line in out.splitlines() if line.startswith(most))
    assert kept.split()[1] == "fp32"
    assert kept.endswith("kept for the budget")
    made = open_model_directory(tmp_path / "out").quantization
    assert made is not None
    assert most not in made.products


def test_a_budget_below_every_loss_writes_nothing_and_exits_1(
    quantize: Command, table: Path, clips: Path, tmp_path: Path
) -> None:
    arguments = ("--keep", "recurrent_0,fc_0", "--table", table, "--held-out", clips / "1.wav", "-q")
    code, out, err = quantize("--precision", "fp8", *arguments, "--budget", 1e-9)
    assert code == 1
    assert "no product can be fp8; nothing is written" in err
    assert "kept for the budget" in out
    assert not (tmp_path / "out").exists()


def test_products_are_excluded_by_name_and_weights_alone_need_no_table(quantize: Command, tmp_path: Path) -> None:
    code, out, err = quantize("--precision", "int8-weights", "--keep", "output,fc_0")
    assert code == 0, err
    made = open_model_directory(tmp_path / "out").quantization
    assert made is not None
    assert {name: str(p) for name, p in made.products.items()} == {"recurrent_0": "int8 weights"}
    assert "loss not measured" in out


def test_held_out_speech_that_was_calibrated_on_is_reported(quantize: Command, table: Path, clips: Path) -> None:
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
        (("--precision", "int8", "--table", "none.json"), "No such file"),
    ],
)
def test_wrong_usage_exits_2_before_any_work(
    quantize: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = quantize(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_unusable_recordings_are_reported_and_the_others_measured(
    quantize: Command, clips: Path, tmp_path: Path
) -> None:
    bad, silent, nan = (tmp_path / name for name in ("bad.wav", "silent.wav", "nan.wav"))
    bad.write_bytes(b"no sound")
    soundfile.write(silent, np.zeros(4000), RATE)
    soundfile.write(nan, np.full(4000, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "twice").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "twice" / name).write_bytes((clips / "1.wav").read_bytes())
    arguments = ("--precision", "int8-weights", "--held-out", tmp_path / "twice", bad, silent, nan, "--json", "-q")
    code, out, err = quantize(*arguments)
    assert code == 1
    report = json.loads(out)
    assert [Path(one["input"]).name for one in report["held_out"]] == ["a.wav"]
    assert {one["input"] for one in report["failed"]} == {str(bad), str(silent), str(nan)}
    assert "bad.wav" in err
    assert "silent.wav: found silence" in err
    assert "nan.wav: found NaN" in err
    assert open_model_directory(tmp_path / "out").quantization is not None
    code, _, err = quantize("--precision", "int8-weights", "--overwrite", "--held-out", silent, nan, "-q")
    assert code == 2
    assert "none of the recordings to measure on can be used" in err


def test_an_existing_table_is_not_replaced(quantize: Command, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("mine")
    code, _, err = quantize("--precision", "int8", "--speech", clips, "-q")
    assert code == 2
    assert "use it with --table" in err
    assert (tmp_path / "out.json").read_text() == "mine"


def test_the_source_is_never_replaced(tmp_path: Path, command: Command) -> None:
    copy = shutil.copytree(shipped_voice(), tmp_path / "voice")
    code, _, err = command("quantize", copy, "-o", copy, "--precision", "int8-weights", "--overwrite")
    assert code == 2
    assert "choose another output" in err
    assert open_model_directory(copy).quantization is None
