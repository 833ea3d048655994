"""The command ``speak``."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_voice import SMALL_ACOUSTIC, SMALL_VOICE

pytest.importorskip("hibari", reason="text is read by hibari-tts (the extra 'speak')")
pytest.importorskip("sentencex", reason="texts are divided by sentencex (the extra 'speak')")

from wavernn_trt.runtime.speech.speaker import Controls, Speaker
from wavernn_trt.runtime.streaming.pcm import to_int16

Command = Callable[..., tuple[int, str, str]]
TEXT = "Hello, this is a test. It has 2 sentences!"


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A voice file of small random models."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps({"acoustic": str(SMALL_ACOUSTIC), "vocoder": str(SMALL_VOICE)}))
    return path


@pytest.fixture
def speak(command: Command, voice: Path) -> Command:
    """A function (arguments) -> the exit code, stdout and stderr of ``speak`` with the small voice."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return command("speak", *arguments, "--voice", voice, "--backend", "onnxruntime", "--threads", "1")

    return run


def test_a_text_becomes_a_file(speak: Command, voice: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.wav"
    code, printed, _ = speak(TEXT, "-o", out, "--seed", "5")
    assert code == 0
    samples, rate = soundfile.read(out, dtype="int16")
    assert re.fullmatch(
        rf"{re.escape(str(out))}: {len(samples) / rate:.2f} s of speech in .* s \(onnxruntime\); real-time factor .*\n",
        printed,
    )
    with Speaker.load(voice, "onnxruntime", threads=1) as speaker:
        expected = speaker.speak(TEXT, Controls(seed=5)).waveform
    assert rate == 16000
    assert np.array_equal(samples, to_int16(expected))


def test_text_comes_from_a_file_or_standard_input_too(
    speak: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(TEXT.replace(" ", "\n", 1))
    outputs = [tmp_path / f"{number}.wav" for number in range(3)]
    assert speak(TEXT, "-o", outputs[0], "-q")[:2] == (0, "")
    assert speak("--file", tmp_path / "text.txt", "-o", outputs[1], "-q")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    assert speak("-", "-o", outputs[2], "-q")[0] == 0
    assert len({path.read_bytes() for path in outputs}) == 1


def test_json_and_timings_are_for_programs(speak: Command, tmp_path: Path) -> None:
    out, timings = tmp_path / "out.wav", tmp_path / "words.json"
    code, printed, err = speak(TEXT, "-o", out, "--timings", timings, "--json", "--speed", "1.5", "--pitch", "0.9")
    assert (code, err) == (0, "")
    report = json.loads(printed)
    assert (report["output"], report["sample_rate"], report["backend"]) == (str(out), 16000, "onnxruntime")
    assert report["samples"] == soundfile.info(out).frames == round(report["seconds"] * 16000)
    sentences = json.loads(timings.read_text())["sentences"]
    assert [one["text"] for one in sentences] == ["Hello, this is a test.", "It has 2 sentences!"]
    words = [word for one in sentences for word in one["words"]]
    assert words[0]["text"].startswith("Hello")
    assert 0 < words[0]["start"] < words[0]["stop"] <= words[-1]["stop"] <= report["seconds"]
    assert sum(len(one["phonemes"]) for one in sentences) > 30


def test_subtitles_have_a_caption_for_each_sentence(speak: Command, tmp_path: Path) -> None:
    assert speak(TEXT, "-o", tmp_path / "out.wav", "--timings", tmp_path / "words.srt", "-q")[0] == 0
    captions = (tmp_path / "words.srt").read_text().split("\n\n")
    assert len(captions) == 2
    number, span, text = captions[1].strip().split("\n")
    assert (number, text) == ("2", "It has 2 sentences!")
    assert re.fullmatch(r"00:00:\d\d,\d{3} --> 00:00:\d\d,\d{3}", span)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "the text is empty"),
        (("日本語",), "nothing that can be read as English"),
        (("Hi.", "--speed", "9"), "speed: found 9.0, expected 0.25 to 4"),
        (("Hi.", "--timings", "words.txt"), "--timings: found words.txt, expected a .json or .srt file"),
        (("Hi.", "--file", "a.txt"), "not allowed with argument"),
        ((), "one of the arguments TEXT --file is required"),
        (("--file", "none.txt"), "none.txt: No such file or directory"),
    ],
)
def test_a_mistake_is_reported_and_leaves_no_file(
    speak: Command, tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, _, err = speak(*arguments, "-o", "out.wav")
    assert code == 2
    assert words in err
    assert sorted(tmp_path.iterdir()) == before


def test_standard_output_is_refused(command: Command) -> None:
    code, out, err = command("speak", "Hi.", "-o", "-")
    assert (code, out) == (2, "")
    assert "--output: found -, expected a file" in err


def test_an_unknown_voice_is_refused_with_the_known_ones(command: Command, tmp_path: Path) -> None:
    code, _, err = command("speak", "Hi.", "-o", tmp_path / "a.wav", "--voice", "alto")
    assert code == 2
    assert "voice: found 'alto', expected heart, or the path of a voice file" in err
