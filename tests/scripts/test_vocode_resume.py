"""``wavernn-trt vocode`` on a folder: killed, terminated, on a full disk; a rerun continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.runtime.jobs.output_folder import LOCK
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.cli import main

Begin = Callable[..., subprocess.Popen[str]]
SECONDS = 120
"""Longer than any of these processes takes."""
FILES = 60


@pytest.fixture(scope="module")
def vocoder() -> Iterator[Vocoder]:
    with Vocoder.load(SMALL_VOICE, "onnxruntime", batch=1, threads=1) as vocoder:
        yield vocoder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with many short mels in in/a and in/b."""
    monkeypatch.chdir(tmp_path)
    mel = np.load(SAMPLE_MEL)
    for number in range(FILES):
        path = tmp_path / "in" / ("a" if number < FILES // 3 else "b") / f"{number:03d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, mel[:, number : number + 4 + 2 * (number % 3)])
    return tmp_path


@pytest.fixture
def vocode(folder: Path, begin: Begin) -> Begin:
    """A function (further arguments) -> ``vocode`` of in/ into out/ in another process."""
    options = ("--threads", "1", "--backend", "onnxruntime", "--batch", "4", "--model", SMALL_VOICE)
    return partial(begin, "vocode", "in", "-o", "out", *options, text=True)


def outputs() -> list[Path]:
    return sorted(Path("out").rglob("*.wav"))


def hidden() -> list[str]:
    """Temporary files, and the lock."""
    return [path.name for path in Path("out").rglob(".*")]


def wait_for_outputs(process: subprocess.Popen[str], count: int) -> None:
    until, pause = time.monotonic() + SECONDS, threading.Event()
    while len(outputs()) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        pause.wait(0.002)


def report(run: int | None = None) -> list[dict[str, Any]]:
    """The lines of one run, or of all."""
    rows = [json.loads(line) for line in Path("report.jsonl").read_text().splitlines()]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    return rows if run is None else [row for row in rows if row["run"] == runs[run]]


def assert_samples_of_a_single_vocode(vocoder: Vocoder) -> None:
    files = sorted(Path("in").rglob("*.npy"))
    assert [path.relative_to("out").with_suffix("") for path in outputs()] == [
        path.relative_to("in").with_suffix("") for path in files
    ]
    for file, output in zip(files, outputs(), strict=True):
        assert np.array_equal(soundfile.read(output, dtype="float32")[0], vocoder.vocode(np.load(file), seed=5))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_a_rerun_after_a_kill_makes_each_missing_file_once(vocode: Begin, vocoder: Vocoder) -> None:
    arguments = ("--seed", "5", "--float", "--report", "report.jsonl")
    killed = vocode(*arguments)
    wait_for_outputs(killed, FILES // 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait(SECONDS)
    before = {path: path.stat().st_mtime_ns for path in outputs()}
    assert FILES // 3 <= len(before) < FILES
    for path in before:
        assert soundfile.info(path).frames > 0
    left = Path("out/b/.0123456789ab.part")
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"RIFF, an unfinished file")
    with Path("report.jsonl").open("ab") as lines:
        lines.write(b'{"input": "in/a/000.npy", "output": "out/')  # as a kill may leave it

    again = vocode(*arguments)
    error = again.communicate(timeout=SECONDS)[1]
    assert again.returncode == 0, error
    assert f"{FILES - len(before)} done, {len(before)} skipped" in error
    assert "unfinished files of a run that was killed" in error
    assert hidden() == []
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a file was made twice"
    assert_samples_of_a_single_vocode(vocoder)

    first, second = report(0), report(1)
    assert len(first) + len(second) == len(report()), "only the incomplete line is gone"
    everything = {str(path) for path in outputs()}
    assert Counter(row["output"] for row in second) == Counter(everything)
    assert {row["output"] for row in first} <= set(map(str, before))
    assert {row["output"] for row in second if row["status"] == "skipped"} == set(map(str, before))
    done = [row for row in report() if row["status"] == "done"]
    assert len({row["output"] for row in done}) == len(done)
    for row in done:
        assert row["samples"] == soundfile.info(row["output"]).frames
        assert (row["seed"], row["error"], row["backend"], row["engine"]) == (5, None, "onnxruntime", None)
        assert len(row["model_sha256"]) == 64


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_second_run_into_the_folder_is_refused_and_sigterm_ends_the_first(
    vocode: Begin, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mel = np.load(SAMPLE_MEL)
    for number in range(16):
        np.save(folder / "in" / "a" / f"long{number}.npy", np.tile(mel, 8))  # half a minute of work or more
    first = vocode("--json")
    wait_for_outputs(first, 1)
    assert LOCK in hidden()
    assert main(["vocode", "in", "-o", "out", "--threads", "1", "--backend", "onnxruntime"]) == 2
    assert f"output out: process {first.pid} on " in capsys.readouterr().err
    first.send_signal(signal.SIGTERM)
    document, error = first.communicate(timeout=SECONDS)
    assert first.returncode == 143, error
    assert "wavernn-trt: terminated; finished files are kept" in error
    result = json.loads(document)
    assert result["stopped"] == "terminated"
    assert {file["output"] for file in result["files"]} == set(map(str, outputs()))
    assert result["totals"]["done"] == len(outputs()) < FILES
    assert not list(Path("out").rglob("long15.wav"))
    assert hidden() == []


NAMESPACES = (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"])
"""Commands that run another where a mount is private: for users, and for root."""
SMALL_DISK = """
set -u
mkdir -p out && mount -t tmpfs -o size=100k tmpfs out || exit 99
vocode() { "$PYTHON" -m wavernn_trt.scripts.cli vocode in -o out --batch 4 --threads 1 --backend onnxruntime "$@"; }
vocode --json --report report.jsonl > full.json 2> full.err; echo $? > full.code
find out -name '*.wav' -size +0 | sort > full.found
find out -name '.*' -type f > full.hidden
mount -o remount,size=10m out
vocode --report report.jsonl 2> again.err; echo $? > again.code
find out -name '*.wav' -size +0 | sort > again.found
find out -name '.*' -type f >> full.hidden
mount -o remount,ro out
vocode --overwrite 2> readonly.err; echo $? > readonly.code
"""


def test_a_full_disk_ends_the_run_and_a_rerun_continues(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHON": sys.executable}
    for command in NAMESPACES:
        try:
            finished = subprocess.run(
                [*command, "sh", "-c", SMALL_DISK], env=environment, capture_output=True, timeout=SECONDS, check=False
            )
        except OSError:
            pytest.skip("needs unshare, to mount a small disk")
        if finished.returncode == 0:
            break
    else:
        pytest.skip("a small disk cannot be mounted here: no root, and no namespaces for users")

    def content(name: str) -> str:
        return Path(name).read_text().strip()

    assert (content("full.code"), content("again.code")) == ("1", "0"), content("full.err") + content("again.err")
    full = json.loads(content("full.json"))
    written = content("full.found").splitlines()
    assert 0 < len(written) < FILES
    status = {file["output"]: file["status"] for file in full["files"]}
    assert sorted(output for output in status if status[output] == "done") == written
    failed = [file for file in full["files"] if file["status"] == "failed"]
    assert failed
    assert all("No space left on device" in file["error"] for file in failed)
    left = FILES - len(full["files"])
    assert f"{left} left for the next run" in content("full.err")
    assert "No space left on device; free some space; then run the same command again: it continues" in content(
        "full.err"
    )
    assert full["stopped"].endswith("No space left on device; free some space")
    assert "Traceback" not in content("full.err")
    assert len(content("again.found").splitlines()) == FILES
    assert f"{FILES - len(written)} done, {len(written)} skipped" in content("again.err")
    assert content("full.hidden") == ""
    assert Counter(row["output"] for row in report(1)) == Counter(content("again.found").splitlines())
    assert content("readonly.code") == "1"
    assert "Read-only file system; make the file system writable, or choose another" in content("readonly.err")


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
"""


def test_a_file_beyond_the_size_limit_stops_no_other(vocode: Begin) -> None:
    pytest.importorskip("resource", reason="needs a limit of file sizes")
    process = vocode("--json", code=LIMITED)
    document, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, error
    files = json.loads(document)["files"]
    short = [file for file in files if file["samples"]]
    assert len(files) == FILES
    assert len(short) == FILES // 3
    assert {file["status"] for file in short} == {"done"}
    assert all("File too large" in file["error"] for file in files if file not in short)
    assert hidden() == []
    assert len(outputs()) == FILES // 3
