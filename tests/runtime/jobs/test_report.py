"""The report of a run: a file of JSON lines that survives killed runs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.report import JobReport, model_fingerprint, result_row
from wavernn_trt.runtime.jobs.result import JobResult, JobsStopped
from wavernn_trt.runtime.vocoder import shipped_voice


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "report.jsonl"


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def write(path: Path, *numbers: int) -> None:
    with JobReport(path, {"backend": "onnxruntime"}) as report:
        for number in numbers:
            report.add({"number": number})


def test_a_row_has_the_result_of_a_file() -> None:
    job = Job(Path("in/a.npy"), Path("out/a.wav"), 7)
    assert result_row(JobResult(job, "done", 8000, 0.25), 16000) == {
        "input": "in/a.npy",
        "output": "out/a.wav",
        "status": "done",
        "seed": 7,
        "seconds": 0.5,
        "samples": 8000,
        "sample_rate": 16000,
        "rtf": 0.5,
        "error": None,
        "warnings": [],
    }
    failed = result_row(JobResult(job, "failed", error="no\nmel"), 16000)
    assert (failed["rtf"], failed["error"]) == (None, "no\nmel")


def test_runs_append_and_have_different_names(path: Path) -> None:
    write(path, 1, 2)
    with JobReport(path, {}) as report:
        report.add({"number": 3})
        assert [row["number"] for row in rows(path)] == [1, 2, 3], "a line is there when it is added"
    first, second, third = rows(path)
    assert first["run"] == second["run"] != third["run"]
    assert first["backend"] == "onnxruntime"


@pytest.mark.parametrize(("cut", "length"), [(1, 10), (30, 10), (5, 200_000)])
def test_an_incomplete_last_line_is_dropped(
    path: Path, cut: int, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, 1, 2)
    whole = path.read_bytes()
    torn = json.dumps({"number": 3, "error": "x" * length}).encode()
    path.write_bytes(whole + torn[:-cut])
    write(path, 4)
    assert [row["number"] for row in rows(path)] == [1, 2, 4]
    assert path.read_bytes().startswith(whole)
    assert "the last line is incomplete, since a run was killed; it is dropped" in caplog.text


def test_trailing_zeros_and_a_single_incomplete_line_are_dropped(path: Path) -> None:
    write(path, 1)
    path.write_bytes(path.read_bytes() + bytes(100))
    write(path, 2)
    assert [row["number"] for row in rows(path)] == [1, 2]
    path.write_bytes(b'{"number": 1, "err')
    write(path, 2)
    assert [row["number"] for row in rows(path)] == [2]


def test_a_last_line_that_only_lacks_its_end_is_kept(path: Path) -> None:
    write(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    write(path, 3)
    assert [row["number"] for row in rows(path)] == [1, 2, 3]


def test_other_files_are_refused_and_not_changed(path: Path, tmp_path: Path) -> None:
    with pytest.raises(VocoderError, match=r"expected a name that ends in \.jsonl"):
        JobReport(tmp_path / "mel.npy", {})
    path.parent.mkdir()
    path.write_text("a diary\n")
    with pytest.raises(VocoderError, match="found a file that holds no JSON lines"):
        JobReport(path, {})
    assert path.read_text() == "a diary\n"
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(VocoderError, match=r"report .*folder\.jsonl: found a folder, pipe or device, expected a file"):
        JobReport(tmp_path / "folder.jsonl", {})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(VocoderError, match="found a folder, pipe or device, expected a file"):
        JobReport(tmp_path / "pipe.jsonl", {})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_only_one_run_at_a_time_writes_a_report(path: Path) -> None:
    with JobReport(path, {}), pytest.raises(VocoderError, match="another process writes it"):
        JobReport(path, {})
    write(path, 1)


def test_a_line_that_does_not_fit_leaves_no_part_of_it(path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit of file sizes")
    write(path, 1)
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with JobReport(path, {}) as report:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
        try:
            with pytest.raises(JobsStopped, match=r"report .*: File too large; make room for it") as refused:
                report.add({"number": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(path) in str(refused.value)
        assert path.read_bytes() == whole
        report.add({"number": 3})
    assert [row["number"] for row in rows(path)] == [1, 3]


def test_the_fingerprint_of_a_model_is_the_hash_of_its_manifest(tmp_path: Path) -> None:
    manifest = (shipped_voice() / "manifest.json").read_bytes()
    assert model_fingerprint(shipped_voice()) == hashlib.sha256(manifest).hexdigest()
    assert model_fingerprint(tmp_path / "checkpoint.pt") is None
