"""``wavernn-trt vocode``: folders of mixed files, damaged inputs, standard input and standard output."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.scripts.cli import main

Capture = pytest.CaptureFixture[str]
MakeMel = Callable[..., NDArray[np.float32]]
RATE, HOP = 16000, 40
SECONDS = 120
"""Longer than any of these processes takes on any machine."""


@pytest.fixture
def folder(tiny_voice: Path, tiny_mel: MakeMel) -> Path:
    """The working folder, with in/a.wav, in/b.mp3, in/c.opus, in/d.aiff, in/e.npz and in/f.m4a."""
    Path("in").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2000).astype(np.float32)
    soundfile.write("in/a.wav", noise, RATE)
    soundfile.write("in/b.mp3", noise, RATE)
    soundfile.write("in/c.opus", noise, RATE, format="OGG", subtype="OPUS")
    soundfile.write("in/d.aiff", noise, RATE)
    np.savez("in/e.npz", mel=tiny_mel(9), text=np.arange(3))
    Path("in/f.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(40))
    return tiny_voice


def vocode(*arguments: str) -> int:
    return main(["vocode", *arguments])


def test_every_readable_format_is_vocoded_and_other_files_are_listed(folder: Path, capsys: Capture) -> None:
    assert vocode("in", "-o", "out", "--json") == 0
    captured = capsys.readouterr()
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
    assert "5 done" in captured.err
    assert "wavernn-trt: left out 1 file that is no recording or mel: .m4a 1 (in/f.m4a)\n" in captured.err
    document = json.loads(captured.out)
    assert document["left_out"] == {"files": 1, "kinds": {".m4a": 1}, "first": ["in/f.m4a"]}
    assert all(file["warnings"] == [] for file in document["files"])
    assert vocode("in", "-o", "out", "-q") == 0
    assert capsys.readouterr().err == ""


def test_an_unreadable_format_fails_with_the_command_that_converts_it(folder: Path, capsys: Capture) -> None:
    assert vocode("in/f.m4a", "-o", "out.wav") == 1
    error = capsys.readouterr().err
    assert "failed: in/f.m4a: found MPEG-4 (AAC or ALAC), a format that libsndfile does not read" in error
    assert "ffmpeg -i in/f.m4a in/f.wav" in error


def test_a_truncated_recording_is_vocoded_with_a_warning_in_every_report(folder: Path, capsys: Capture) -> None:
    whole = Path("in/a.wav").read_bytes()
    Path("in/a.wav").write_bytes(whole[: 44 + 2000])
    np.save("in/mel.npy", np.load("in/e.npz")["mel"])
    Path("in/mel.npy").write_bytes(Path("in/mel.npy").read_bytes()[:-100])
    assert vocode("in", "-o", "out", "--json", "--report", "report.jsonl") == 1
    captured = capsys.readouterr()
    warning = "cut short: found 0.06 s of the 0.12 s that its header states"
    assert f"wavernn-trt: warning: in/a.wav: {warning}\n" in captured.err
    assert "5 done, 1 failed; 1 with warnings; " in captured.err
    assert "failed: in/mel.npy: not an array that can be read: it is cut short" in captured.err
    rows = [json.loads(line) for line in Path("report.jsonl").read_text().splitlines()]
    for reported in (rows, json.loads(captured.out)["files"]):
        (row,) = [row for row in reported if row["warnings"]]
        assert (row["input"], row["status"], row["warnings"]) == ("in/a.wav", "done", [warning])
    assert soundfile.info("out/a.wav").frames == (1 + 1000 // HOP) * HOP
    assert vocode("in/a.wav", "-o", "again.wav", "-q") == 0
    assert warning in capsys.readouterr().err


def test_inputs_that_differ_in_their_suffix_only_have_outputs_of_their_own(folder: Path, capsys: Capture) -> None:
    Path("in/a.flac").write_bytes(Path("in/d.aiff").read_bytes())
    assert vocode("in", "-o", "out") == 0
    assert {"a.flac.wav", "a.wav.wav"} <= {path.name for path in Path("out").iterdir()}
    assert vocode("in", "-o", "out") == 0
    assert "0 done, 6 skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/a.wav", "-o", "-", "--json"], "--json: standard output is used for the WAV file"),
        (["in", "-o", "-"], "found standard output for several inputs, expected a folder"),
        (["-", "in/a.wav", "-o", "out"], "/dev/stdin: found a stream among several inputs, expected it alone"),
        (["-", "-o", "out"], "has no name; name a .wav file, or - for standard output"),
    ],
)
def test_wrong_usage_of_standard_streams_exits_2(
    folder: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert vocode(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_file_named_like_standard_input_is_a_file(folder: Path) -> None:
    Path("-").write_bytes(Path("in/a.wav").read_bytes())
    assert vocode("./-", "-o", "out.wav") == 0
    assert Path("out.wav").exists()


Begin = Callable[..., subprocess.Popen[bytes]]
Piped = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def vocode_in_process(begin: Begin) -> Begin:
    """A function (arguments, options of Popen) -> ``vocode`` on the small voice, in another process."""

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return begin(
            "vocode", *arguments, "--model", SMALL_VOICE, "--backend", "onnxruntime", "--threads", "1", **options
        )

    return start


@pytest.fixture
def piped(vocode_in_process: Begin) -> Piped:
    """A function (standard input, arguments) -> the exit code, standard output and errors."""

    def run(content: bytes, *arguments: str) -> tuple[int, bytes, str]:
        process = vocode_in_process(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(content, timeout=SECONDS)
        return process.returncode, out, err.decode()

    return run


@pytest.fixture
def mel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    """A short mel of the shipped voice."""
    monkeypatch.chdir(tmp_path)
    whole: NDArray[np.float32] = np.load(SAMPLE_MEL)
    return whole[:, :6]


def test_a_mel_from_standard_input_becomes_a_wav_on_standard_output(mel: NDArray[np.float32], piped: Piped) -> None:
    np.save("mel.npy", mel)
    np.savez("mel.npz", mel=mel, other=mel)
    assert piped(b"", "mel.npy", "-o", "file.wav", "-q")[0] == 0
    expected = Path("file.wav").read_bytes()
    for name, stream in (("mel.npy", "-"), ("mel.npz", "/dev/stdin")):
        code, out, err = piped(Path(name).read_bytes(), stream, "-o", "-")
        assert code == 0, err
        assert out == expected
        assert "1 done" in err
    assert piped(b"", "mel.npy", "-o", "/dev/stdout", "-q")[:2] == (0, expected)
    assert sorted(path.name for path in Path().iterdir()) == ["file.wav", "mel.npy", "mel.npz"]


def test_a_recording_from_standard_input_becomes_a_file(mel: NDArray[np.float32], piped: Piped) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(0).uniform(-0.5, 0.5, 2000), RATE, format="WAV")
    header = content.getvalue()[:40] + b"\xff\xff\xff\xff"  # as ffmpeg writes it into a pipe
    code, out, err = piped(header + content.getvalue()[44:], "-", "-o", "new/copy.wav", "--json", "--report", "r.jsonl")
    assert code == 0, err
    (row,) = json.loads(out)["files"]
    assert (row["input"], row["output"], row["warnings"]) == ("/dev/stdin", "new/copy.wav", [])
    assert soundfile.info("new/copy.wav").frames == row["samples"] == (1 + 2000 // 200) * 200
    assert json.loads(Path("r.jsonl").read_text())["input"] == "/dev/stdin"
    assert "0 done, 1 skipped" in piped(b"", "-", "-o", "new/copy.wav")[2]


def test_standard_output_may_be_redirected_to_a_file(mel: NDArray[np.float32], vocode_in_process: Begin) -> None:
    np.save("mel.npy", mel)
    with open("out.wav", "wb") as out:
        process = vocode_in_process("mel.npy", "-o", "-", "-q", stdin=subprocess.DEVNULL, stdout=out)
        assert process.communicate(timeout=SECONDS)[1] == b""
    assert process.returncode == 0
    assert soundfile.info("out.wav").frames == 6 * 200


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs /dev/fd")
def test_a_path_in_dev_fd_is_an_input(mel: NDArray[np.float32], vocode_in_process: Begin) -> None:
    np.save("mel.npy", mel)
    reader, writer = os.pipe()
    process = vocode_in_process(
        f"/dev/fd/{reader}", "-o", "out.wav", "-q", stdin=subprocess.DEVNULL, pass_fds=(reader,)
    )
    os.close(reader)
    with open(writer, "wb") as stream:
        stream.write(Path("mel.npy").read_bytes())
    assert process.communicate(timeout=SECONDS)[1] == b""
    assert soundfile.info("out.wav").frames == 6 * 200


def test_an_unusable_stream_is_a_failed_file(mel: NDArray[np.float32], piped: Piped) -> None:
    for content, message in (
        (b"", "failed: /dev/stdin: found nothing, expected a recording or a mel"),
        (b"neither a recording nor a mel", "failed: /dev/stdin: not a recording that can be read"),
    ):
        code, out, err = piped(content, "-", "-o", "-", "-q")
        assert (code, out) == (1, b"")
        assert message in err
        assert "Traceback" not in err


def test_a_closed_standard_output_is_a_failed_file(mel: NDArray[np.float32], vocode_in_process: Begin) -> None:
    np.save("mel.npy", mel)
    reader, writer = os.pipe()
    os.close(reader)
    process = vocode_in_process("mel.npy", "-o", "-", "-q", stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    error = process.communicate(timeout=SECONDS)[1].decode()
    assert process.returncode == 1
    assert error == "wavernn-trt: failed: mel.npy: /dev/stdout: Broken pipe\n"


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_interrupts_the_waiting_for_standard_input(mel: NDArray[np.float32], vocode_in_process: Begin) -> None:
    announced = """
from wavernn_trt.runtime.files import standard_streams
read = standard_streams.read_input_stream
def announce(path):
    print("waiting", file=sys.stderr, flush=True)
    return read(path)
standard_streams.read_input_stream = announce
"""
    process = vocode_in_process("-", "-o", "-", code=announced, stdin=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    out, err = process.communicate()
    assert out == b""
    assert err.endswith(b"wavernn-trt: interrupted\n")
