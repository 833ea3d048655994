"""Inputs and outputs of jobs, from files, folders and manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.plan import Job, plan_jobs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """in/a.wav, in/deep/b.FLAC, in/c.npy, and files that are no input."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.wav", "in/deep/b.FLAC", "in/c.npy", "in/notes.txt", "in/._a.wav", "other/a.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def pairs(jobs: Iterable[Job]) -> dict[str, str]:
    return {job.input.as_posix(): job.output.as_posix() for job in jobs}


def test_a_file_becomes_a_file_or_goes_into_a_folder(folder: Path) -> None:
    assert pairs(plan_jobs([Path("in/a.wav")], Path("x/copy.WAV"))) == {"in/a.wav": "x/copy.WAV"}
    assert pairs(plan_jobs([Path("in/c.npy")], Path("out"))) == {"in/c.npy": "out/c.wav"}


def test_folders_are_searched_and_keep_their_structure(folder: Path) -> None:
    expected = {"in/a.wav": "out/a.wav", "in/c.npy": "out/c.wav", "in/deep/b.FLAC": "out/deep/b.wav"}
    assert pairs(plan_jobs([Path("in")], Path("out"))) == expected


def test_outputs_beneath_the_inputs_are_not_inputs_of_the_next_run(folder: Path) -> None:
    first = plan_jobs([Path("in")], Path("in/out"))
    for job in first:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        job.output.touch()
    assert list(plan_jobs([Path("in")], Path("in/out"))) == list(first)


def test_a_manifest_names_inputs_outputs_and_seeds(folder: Path) -> None:
    lines = [
        {"input": "a.wav"},
        {"input": "deep/b.FLAC", "output": "sub/two.wav", "seed": 2**64 - 1},
        {"input": str(folder / "in/c.npy"), "sample_rate": 16000},
    ]
    manifest = folder / "in" / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert list(plan_jobs([manifest], Path("out"), seed=5)) == [
        Job(folder / "in/a.wav", Path("out/a.wav"), 5),
        Job(folder / "in/deep/b.FLAC", Path("out/sub/two.wav"), 2**64 - 1),
        Job(folder / "in/c.npy", Path("out/c.wav"), 5, 16000),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "found list, expected an object"),
        ("{}", "input: found None, expected a path"),
        ('{"input": ""}', "input: found ''"),
        ('{"input": "a\\u0000b"}', "expected a path"),
        ('{"input": "a.wav", "out": "b.wav"}', "found key 'out', expected input, output, sample_rate, seed"),
        ('{"input": "a.wav", "output": "b.mp3"}', "ends in .wav"),
        ('{"input": "a.wav", "output": "../b.wav"}', "inside the output folder"),
        ('{"input": "a.wav", "output": "/b.wav"}', "inside the output folder"),
        ('{"input": "a.wav", "seed": -1}', "seed: found -1"),
        ('{"input": "a.wav", "sample_rate": 0}', "sample_rate: found 0"),
        ('{"input": "a.wav", "sample_rate": 16000}', r"sample_rate: found 16000 for a.wav, expected it for mels"),
    ],
)
def test_the_error_of_a_manifest_names_the_line(folder: Path, line: str, message: str) -> None:
    manifest = folder / "list.jsonl"
    manifest.write_text('{"input": "a.wav"}\n\n' + line)
    with pytest.raises(VocoderError, match=rf"list\.jsonl, line 3: .*{message}"):
        plan_jobs([manifest], Path("out"))


def test_manifests_may_begin_with_a_mark_and_hold_any_separator(folder: Path) -> None:
    content = '{"input": "in/a.wav"}\r\n{"input": "in/c.npy", "output": "one\u2028two.wav"}\r\n'
    (folder / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [job.output.name for job in plan_jobs([folder / "list.jsonl"], Path("out"))] == ["a.wav", "one\u2028two.wav"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_manifest_is_a_regular_file(folder: Path) -> None:
    os.mkfifo(folder / "list.jsonl")
    with pytest.raises(VocoderError, match="found a pipe or device"):
        plan_jobs([folder / "list.jsonl"], Path("out"))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_manifests_without_lines_are_refused(folder: Path, content: bytes) -> None:
    (folder / "list.jsonl").write_bytes(content)
    with pytest.raises(VocoderError, match="one JSON object a line"):
        plan_jobs([folder / "list.jsonl"], Path("out"))


def test_two_inputs_for_one_output_are_refused(folder: Path) -> None:
    with pytest.raises(VocoderError, match=r"in/a.wav and other/a.ogg would both become out/a.wav"):
        plan_jobs([Path("in"), Path("other")], Path("out"))


def test_an_input_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(VocoderError, match="overwritten by its own output"):
        plan_jobs([Path("in")], Path("in"))
    with pytest.raises(VocoderError, match="overwritten by its own output"):
        plan_jobs([Path("in/a.wav")], Path("in/../in/a.wav"))


def test_impossible_inputs_and_outputs_are_refused(folder: Path) -> None:
    with pytest.raises(VocoderError, match="no such file or folder"):
        plan_jobs([Path("nowhere.wav")], Path("out"))
    with pytest.raises(VocoderError, match="several inputs, expected a folder"):
        plan_jobs([Path("in")], Path("out.wav"))
    with pytest.raises(VocoderError, match=r"notes\.txt: found a file there, expected a folder or a name that ends in"):
        plan_jobs([Path("in/a.wav")], Path("in/notes.txt"))
    for name in ("out.flac", "out.OGG", "out.mp3"):
        with pytest.raises(VocoderError, match=r"expected a name that ends in \.wav, or a folder"):
            plan_jobs([Path("in/a.wav")], Path(name))
    Path("out.flac").mkdir()
    assert pairs(plan_jobs([Path("in/a.wav")], Path("out.flac"))) == {"in/a.wav": "out.flac/a.wav"}
    (folder / "void").mkdir()
    with pytest.raises(VocoderError, match=r"found no recordings \(\.wav, .*\) or mels \(\.npy, .*\) in this folder"):
        plan_jobs([Path("void")], Path("out"))


def test_a_missing_file_among_others_fails_only_when_its_job_runs(folder: Path) -> None:
    assert len(plan_jobs([Path("in/a.wav"), Path("nowhere.wav")], Path("out"))) == 2


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_circular_links_are_followed_once(folder: Path) -> None:
    (folder / "in" / "loop").symlink_to(folder / "in", target_is_directory=True)
    assert len(plan_jobs([Path("in")], Path("out"))) == 3


def test_files_that_differ_only_in_their_suffix_keep_it_in_the_output(folder: Path) -> None:
    for name in ("in/a.mp3", "in/deep/b.npy", "in/deep/a.ogg"):
        Path(name).touch()
    expected = {
        "in/a.mp3": "out/a.mp3.wav",
        "in/a.wav": "out/a.wav.wav",
        "in/c.npy": "out/c.wav",
        "in/deep/a.ogg": "out/deep/a.wav",
        "in/deep/b.FLAC": "out/deep/b.FLAC.wav",
        "in/deep/b.npy": "out/deep/b.npy.wav",
    }
    assert pairs(plan_jobs([Path("in")], Path("out"))) == expected
    named = plan_jobs([Path("in/a.wav"), Path("in/a.mp3"), Path("in/c.npy")], Path("out"))
    assert pairs(named) == {name: expected[name] for name in ("in/a.wav", "in/a.mp3", "in/c.npy")}
    assert named[1].output == Path("out/a.mp3.wav")


def test_a_file_that_is_added_gets_an_output_of_its_own(folder: Path) -> None:
    before = pairs(plan_jobs([Path("in")], Path("out")))
    Path("in/a.aiff").touch()  # comes before a.wav, whose output is out/a.wav
    after = pairs(plan_jobs([Path("in")], Path("out")))
    assert after["in/a.aiff"] not in before.values()
    Path("in/a.aiff").unlink()
    assert pairs(plan_jobs([Path("in")], Path("out"))) == before


def test_outputs_that_are_still_equal_are_refused(folder: Path) -> None:
    for name in ("in/a.mp3", "in/a.mp3.flac"):
        Path(name).touch()
    with pytest.raises(VocoderError, match=r"would both become out/a\.mp3\.wav; .* name their outputs in a manifest"):
        plan_jobs([Path("in")], Path("out"))


def test_outputs_beside_their_inputs_are_refused_as_inputs_of_the_next_run(folder: Path) -> None:
    Path("in/a.wav").unlink()
    for job in plan_jobs([Path("in")], Path("in")):
        job.output.touch()
    with pytest.raises(VocoderError, match="overwritten by its own output"):
        plan_jobs([Path("in")], Path("in"))


def test_other_files_of_folders_are_counted(folder: Path) -> None:
    for name in ("in/a.m4a", "in/deep/b.m4a", "in/.hidden.m4a", "in/.git/config", "in/out/report.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    plan = plan_jobs([Path("in")], Path("in/out"))
    assert plan.left_out.row() == {
        "files": 3,
        "kinds": {".m4a": 2, ".txt": 1},
        "first": plan.left_out.names,
    }
    assert sorted(plan.left_out.names) == ["in/a.m4a", "in/deep/b.m4a", "in/notes.txt"]
    Path("void").mkdir()
    Path("void/x.m4a").touch()
    with pytest.raises(VocoderError, match=r"in this folder; left out 1 file that is no recording or mel: \.m4a 1"):
        plan_jobs([Path("void")], Path("out"))


def test_a_stream_is_a_single_input_with_a_file_name_for_its_output(folder: Path) -> None:
    stream = Path("/dev/stdin")
    for source in (stream, Path("/dev/fd/63"), Path("/proc/self/fd/3")):
        for out in (Path("a.wav"), Path("/dev/stdout")):
            plan = plan_jobs([source], out, streams=True)
            assert pairs(plan) == {source.as_posix(): out.as_posix()}
            assert plan.output_folders() == ({Path()} if out == Path("a.wav") else set())
    for inputs, out, message in (
        ([stream], "out", "found a folder, but /dev/stdin has no name"),
        ([stream, Path("in/a.wav")], "out", "found a stream among several inputs"),
        ([Path("in")], "/dev/stdout", "found standard output for several inputs"),
        ([Path("in/a.wav"), Path("in/c.npy")], "/dev/stdout", "found standard output for several inputs"),
    ):
        with pytest.raises(VocoderError, match=message):
            plan_jobs(inputs, Path(out), streams=True)
    for source, out in ((stream, "a.wav"), (Path("in/a.wav"), "/dev/stdout")):
        with pytest.raises(VocoderError, match="found a stream, expected a file or a folder"):
            plan_jobs([source], Path(out))
