"""Files that are published when complete, and leftovers of killed writers; with real processes and locks."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from held_process import SECONDS, held_process

from wavernn_trt.runtime.files import output_files
from wavernn_trt.runtime.files.output_files import WholeFile, flush_folder, remove_leftovers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


WRITER = """
from pathlib import Path
from wavernn_trt.runtime.files.output_files import WholeFile
file = WholeFile(Path("{path}"))
file.write(b"half of it")
print("ready", flush=True)
input()
"""


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.wav"
    file = WholeFile(path)
    file.write(b"one")
    file.write(b"two")
    assert not path.exists()
    file.flush()
    file.publish()
    flush_folder(path.parent)
    assert path.read_bytes() == b"onetwo"
    other = WholeFile(path)
    other.write(b"three")
    other.discard()
    other.discard()
    assert path.read_bytes() == b"onetwo"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_published_is_removed(tmp_path: Path) -> None:
    file = WholeFile(tmp_path / "a.wav")
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        file.publish()
    assert refused.value.filename == str(tmp_path / "a.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_only_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    foreign = [tmp_path / name for name in (".0123456789ab.part.txt", "0123456789ab.part", ".notes.part", "a.wav")]
    for path in foreign:
        path.touch()
    (tmp_path / "aim").touch()
    (tmp_path / ".aaaaaaaaaaaa.part").symlink_to(tmp_path / "aim")
    (tmp_path / ".bbbbbbbbbbbb.part").mkdir()
    with held_process(WRITER.format(path=tmp_path / "live.wav")) as live:
        with held_process(WRITER.format(path=tmp_path / "killed.wav")) as killed:
            killed.send_signal(signal.SIGKILL)
            killed.wait(SECONDS)
        assert len(list(tmp_path.glob(".*.part"))) == 5
        assert remove_leftovers([tmp_path, tmp_path / "nowhere"]) == 1
        assert len(list(tmp_path.glob(".*.part"))) == 4
        assert live.poll() is None
        assert remove_leftovers([tmp_path]) == 0, "a live process writes the other one"
    assert remove_leftovers([tmp_path]) == 1
    assert {*foreign, tmp_path / "aim"} <= set(tmp_path.iterdir())
    assert (tmp_path / ".aaaaaaaaaaaa.part").is_symlink()


def test_without_file_locks_no_leftovers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_process(WRITER.format(path=tmp_path / "a.wav")):
        pass
    monkeypatch.setattr(output_files, "try_lock", lambda _: None)
    assert remove_leftovers([tmp_path]) == 0
    WholeFile(tmp_path / "b.wav").publish()
    assert (tmp_path / "b.wav").exists()


def test_a_writer_whose_temporary_file_was_removed_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, cleared = output_files.try_lock, 0

    def cleared_first(descriptor: int) -> bool | None:
        nonlocal cleared
        if not cleared:
            cleared = -1  # removing leftovers locks, too
            cleared = remove_leftovers([tmp_path])
        return lock(descriptor)

    monkeypatch.setattr(output_files, "try_lock", cleared_first)
    file = WholeFile(tmp_path / "a.wav")
    file.write(b"whole")
    file.publish()
    assert cleared == 1
    assert (tmp_path / "a.wav").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1
