"""``wavernn-trt vocode --mel-from`` and its warnings about mels, on the tiny voice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from wavernn_trt.runtime.features import mel_to_magnitude
from wavernn_trt.runtime.mel_comparison.conventions import CONVENTIONS, convert
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.cli import main

Capture = pytest.CaptureFixture[str]
MakeMel = Callable[..., NDArray[np.float32]]


@pytest.fixture
def folder(tiny_voice: Path, tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> Path:
    """The working folder, with taco.npy in natural logarithms, and a.wav."""
    np.save("taco.npy", np.log(mel_to_magnitude(tiny_mel(9), tiny_vocoder.config.audio)).astype(np.float32))
    soundfile.write("a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 1000), 16000)
    return tiny_voice


def vocode(*arguments: str) -> int:
    return main(["vocode", *arguments])


def test_mels_are_converted_and_recordings_are_not(folder: Path, tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    assert vocode("taco.npy", "a.wav", "-o", "out", "--float", "--mel-from", "tacotron2") == 0
    converted = convert(np.load("taco.npy"), "tacotron2", tiny_vocoder.config.audio)
    assert np.abs(converted - tiny_mel(9)).max() < 1e-5
    assert np.array_equal(soundfile.read("out/taco.wav", dtype="float32")[0], tiny_vocoder.vocode(converted))
    assert vocode("a.wav", "-o", "plain", "--float") == 0
    assert np.array_equal(soundfile.read("plain/a.wav")[0], soundfile.read("out/a.wav")[0])


def test_a_mel_of_another_convention_fails_and_the_error_names_the_option(folder: Path, capsys: Capture) -> None:
    assert vocode("taco.npy", "-o", "out") == 1
    assert "--mel-from" in capsys.readouterr().err


def test_settings_that_are_not_converted_are_named_once(folder: Path, capsys: Capture) -> None:
    assert vocode("taco.npy", "-o", "out", "--mel-from", "waveglow") == 0
    error = capsys.readouterr().err
    assert error.count("--mel-from waveglow converts levels only") == 1
    assert "sample rate 22050 Hz, the model 16000 Hz; hop length 256 samples, the model 40 samples" in error


def test_list_prints_every_convention(capsys: Capture) -> None:
    assert vocode("--mel-from", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [one.name for one in CONVENTIONS]
    assert "also: nvidia, waveglow, forwardtacotron" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "-o", "out", "--mel-from", "coqui"], "--mel-from: found recordings only, expected a mel"),
        (["taco.npy", "-o", "out", "--mel-from", "taco"], "found 'taco', expected list or one of tacotron2"),
    ],
)
def test_wrong_usage_is_exit_code_2(folder: Path, arguments: list[str], message: str, capsys: Capture) -> None:
    assert vocode(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_improbable_mel_has_a_warning_on_stderr_and_in_json(
    folder: Path, tiny_vocoder: Vocoder, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    mels = tiny_vocoder.config.audio.n_mels
    np.save("odd.npy", np.random.default_rng(0).uniform(-0.3, -0.1, (mels, 30)).astype(np.float32))
    assert vocode("odd.npy", "-o", "out", "--json") == 0
    captured = capsys.readouterr()
    (warning,) = json.loads(captured.out)["files"][0]["warnings"]
    assert "where speech has more than 30 dB" in warning
    assert captured.err.count(warning) == 1
    assert not caplog.records
