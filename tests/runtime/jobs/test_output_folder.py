"""The lock of an output folder, with real processes and locks."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from held_process import SECONDS, held_process

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.output_folder import LOCK, locked_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


HOLDER = """
from pathlib import Path
from wavernn_trt.runtime.jobs.output_folder import locked_folder
with locked_folder(Path("{path}")):
    print("ready", flush=True)
    input()
"""


def test_a_folder_is_locked_by_one_process_until_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held_process(HOLDER.format(path=out)) as holder:
        with (
            pytest.raises(VocoderError, match=rf"output .*out: process {holder.pid} on \S+ is writing into"),
            locked_folder(out),
        ):
            pass
        other = tmp_path / "link"
        other.symlink_to(out)
        with pytest.raises(VocoderError, match="is writing into this folder"), locked_folder(other):
            pass
        holder.kill()
        holder.wait(SECONDS)
        assert (out / LOCK).exists()
        with locked_folder(out):
            assert str(os.getpid()) in (out / LOCK).read_text()
    assert list(out.iterdir()) == []
    with locked_folder(out), pytest.raises(VocoderError, match=f"process {os.getpid()} "), locked_folder(out):
        pass


def test_a_folder_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="needs locks of files that can be made to fail")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked_folder(tmp_path / "out"):
        assert list((tmp_path / "out").iterdir()) == []
    assert "this file system has no locks; start no second run into the folder" in caplog.text


def test_a_link_in_place_of_the_lock_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / LOCK).symlink_to(diary)
    with pytest.raises(VocoderError, match=r"out: found a link \.wavernn-trt\.lock, .*; remove it"), locked_folder(out):
        pass
    assert diary.read_text() == "mine"
    assert (out / LOCK).is_symlink()


def test_an_error_in_making_the_folder_is_left_to_its_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with locked_folder(tmp_path / "file" / "out"):
        pass
