"""The files of a folder that are read, and the summary of the others."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavernn_trt.runtime.files.input_files import LeftOut, find_files, is_mel, is_recording, recording_suffixes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = ["b.MP3", "a.wav", "deep/c.opus", "mel.npy", "mel.pt", "song.m4a", "deep/talk.m4a", "notes.txt", "README"]
    for name in [*names, ".hidden.txt", ".git/config", ".wavernn-trt.lock"]:
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Path("in", name).touch()
    return Path("in")


def test_suffixes_are_those_of_the_installed_libsndfile(monkeypatch: pytest.MonkeyPatch) -> None:
    suffixes = recording_suffixes()
    assert suffixes[0] == ".wav"
    assert {".aif", ".aiff", ".au", ".caf", ".flac", ".ogg", ".opus", ".rf64", ".snd", ".w64", ".wave"} <= {*suffixes}
    assert (".mp3" in suffixes) == ("MP3" in soundfile.available_formats())
    assert not {".raw", ".m4a", ".txt", ".mat"} & {*suffixes}
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "", "FLAC": "", "RAW": ""})
    from wavernn_trt.runtime.files import input_files

    input_files._available.cache_clear()
    recording_suffixes.cache_clear()
    try:
        assert recording_suffixes() == (".wav", ".wave", ".flac")
        assert not is_recording("a.mp3")
    finally:
        input_files._available.cache_clear()
        recording_suffixes.cache_clear()


def test_suffixes_distinguish_recordings_and_mels() -> None:
    assert is_recording("x/A.FLAC")
    assert is_recording(Path("a.opus"))
    assert not is_recording("wav")
    assert all(is_mel(f"mel{suffix}") for suffix in (".npy", ".NPZ", ".pt", ".pth"))
    assert not is_mel("mel.wav")
    assert not is_mel("mel")


def test_a_folder_s_other_files_are_counted_and_named(folder: Path) -> None:
    found, left_out = find_files(folder)
    assert [path.as_posix() for path in found] == ["in/a.wav", "in/b.MP3", "in/deep/c.opus", "in/mel.npy", "in/mel.pt"]
    assert left_out.row() == {
        "files": 4,
        "kinds": {".m4a": 2, "no suffix": 1, ".txt": 1},
        "first": ["in/README", "in/deep/talk.m4a", "in/notes.txt", "in/song.m4a"],
    }
    assert left_out.summary() == (
        "left out 4 files that are no recording or mel: .m4a 2, no suffix 1, .txt 1 "
        "(in/README, in/deep/talk.m4a, in/notes.txt, in/song.m4a)"
    )
    found, left_out = find_files(folder, mels=False, beneath=False)
    assert [path.name for path in found] == ["a.wav", "b.MP3"]
    assert "left out 5 files that are no recording: " in left_out.summary()


def test_only_the_first_of_many_are_named() -> None:
    left_out = LeftOut()
    assert not left_out
    for number in range(1000):
        left_out.add(f"{number}.x")
    assert left_out.summary() == (
        "left out 1000 files that are no recording or mel: broken link 1000 (0.x, 1.x, 2.x, 3.x, 4.x, …)"
    )


def test_for_an_ambiguous_suffix_the_content_decides(folder: Path) -> None:
    soundfile.write("in/sound.mat", np.zeros(100), 16000, format="MAT5")
    Path("in/figures.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    found, left_out = find_files(folder)
    assert Path("in/sound.mat") in found
    assert left_out.kinds[".mat"] == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and links")
def test_pipes_and_broken_links_are_left_out(folder: Path) -> None:
    os.mkfifo("in/pipe.wav")
    Path("in/gone.wav").symlink_to("nowhere")
    Path("in/linked.wav").symlink_to("a.wav")
    found, left_out = find_files(folder)
    assert Path("in/linked.wav") in found
    assert {Path("in/pipe.wav"), Path("in/gone.wav")}.isdisjoint(found)
    assert left_out.kinds["pipe or device"] == left_out.kinds["broken link"] == 1
