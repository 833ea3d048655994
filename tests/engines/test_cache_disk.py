"""Full disks and folders that cannot be written: an error with the way out, and no unfinished files."""

from __future__ import annotations

import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from wavernn_trt.engines.cache import EngineCache, EngineCacheError
from wavernn_trt.engines.cache_folder import explain, readable_size

plans = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cache_plans.py"))))
STEM: str = plans.STEM
OTHER_USER = 65534
SKIP = 77


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to mount a small file system, which takes root's rights")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_reported_and_unfinished_files_are_removed(small_disk: Path) -> None:
    cache = EngineCache(small_disk / "engines")
    stored = plans.store(cache, 1, size=500_000)
    with pytest.raises(EngineCacheError) as caught:
        plans.store(cache, 2, size=800_000)
    message = str(caught.value)
    assert message.startswith(f"{cache.folder}: no space left: ")
    assert "free; make room, perhaps with 'wavernn-trt engines prune', or choose another folder" in message
    assert sorted(path.name for path in cache.folder.iterdir()) == sorted(["CACHEDIR.TAG", "locks", stored.name])
    assert cache.find(STEM, plans.key_of(1)) == stored
    cache.prune(everything=True)
    assert plans.store(cache, 2, size=800_000).plan.stat().st_size == 800_000


def test_a_plan_is_removed_if_its_record_cannot_be_written(small_disk: Path) -> None:
    cache = EngineCache(small_disk / "engines")
    key, content = plans.key_of(1), plans.content_of(1)
    with cache.building(STEM, key) as building:
        made = building.folder / "engine.plan"
        made.write_bytes(content)
        fill(small_disk)
        with pytest.raises(EngineCacheError, match="no space left: 1000 B needed, 0 B free"):
            building.commit(made, plans.record_of(content, key))
    (small_disk / "filler").unlink()
    assert cache.scan() == []
    assert list(cache.folder.glob(".building-*")) == []


def test_a_disk_that_is_full_before_the_build_is_reported(small_disk: Path) -> None:
    fill(small_disk)
    cache = EngineCache(small_disk / "engines")
    with pytest.raises(EngineCacheError, match="no space left"):
        plans.store(cache, 1)
    assert cache.find(STEM, plans.key_of(1)) is None


def test_a_read_only_cache_can_be_read_and_writing_is_an_error(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(small_disk / "engines")
    stored = plans.store(cache, 1)
    os.truncate(plans.store(cache, 2).plan, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cache.find(STEM, plans.key_of(1)) == stored
    with pytest.raises(EngineCacheError, match=r"engines: is on a file system that is read-only.*; choose another"):
        plans.store(cache, 3)
    assert cache.find(STEM, plans.key_of(2)) is None
    assert "is not used: it has 10 bytes" in caplog.text
    assert "cannot be removed" in caplog.text
    with pytest.raises(EngineCacheError, match="cannot be removed: Read-only file system"):
        cache.remove(stored.name)
    assert len(cache.prune(everything=True).kept) == 2


def test_a_limit_on_the_size_of_files_is_reported(tmp_path: Path) -> None:
    """What 'ulimit -f' sets; in a process of its own, since it cannot be taken back."""
    code = (
        "import sys, pathlib; from wavernn_trt.engines.cache import EngineCache, EngineCacheError\n"
        f"cache = EngineCache(pathlib.Path({str(tmp_path / 'engines')!r}))\n"
        "try:\n"
        f" with cache.building('a', {'0' * 64!r}) as building: (building.folder / 'plan').write_bytes(bytes(9000))\n"
        "except EngineCacheError as error: print(error)"
    )
    limit = 4096
    ended = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert "files may not be as large as a plan here (see 'ulimit -f')" in ended.stdout, ended.stderr
    assert list((tmp_path / "engines").glob(".building-*")) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "engines"
    file.write_text("")
    for cache in (EngineCache(file), EngineCache(file / "deeper")):
        with pytest.raises(EngineCacheError, match="is not a folder"):
            plans.store(cache, 1)
    for look in (EngineCache(file).scan, EngineCache(file).prune):
        with pytest.raises(EngineCacheError, match="is not a folder, expected one of plans; choose another folder"):
            look()
    assert file.read_text() == ""


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").symlink_to(tmp_path / "unmounted")
    with pytest.raises(EngineCacheError, match="is not a folder"):
        EngineCache(tmp_path / "engines").scan()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can get to, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_folder_of_another_user_can_be_read_and_writing_is_an_error(public_folder: Path) -> None:
    """Root may write everywhere, so that a child process becomes another user."""
    cache = EngineCache(public_folder / "engines")
    stored = plans.store(cache, 1)
    folders = (cache.folder, cache.folder / "locks")
    for folder in folders:
        folder.chmod(0o555)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = try_as_another_user(cache, stored)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    for folder in folders:
        folder.chmod(0o755)
    code = os.waitstatus_to_exitcode(status)
    if code == SKIP:
        pytest.skip("needs to become another user with access to temporary folders")
    assert code == 0


def try_as_another_user(cache: EngineCache, stored: object) -> int:
    """An exit code: 0, or which step went wrong."""
    try:
        if os.geteuid() == 0:
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
        os.listdir(cache.folder)
    except OSError:
        return SKIP
    if cache.find(STEM, plans.key_of(1)) != stored:
        return 2
    try:
        plans.store(cache, 2)
    except EngineCacheError as error:
        if "this user may not write there" not in str(error) or "choose another folder" not in str(error):
            return 3
    else:
        return 4
    (kept,) = cache.prune(everything=True).kept
    return 0 if kept[1] == "Permission denied" else 5


def test_errors_about_other_files_are_not_changed(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    with pytest.raises(FileNotFoundError, match="model"), cache.building(STEM, plans.key_of(1)):
        (tmp_path / "model").read_text()


def test_the_message_has_the_needed_and_the_free_space(tmp_path: Path) -> None:
    message = str(explain(OSError(28, "No space left on device"), tmp_path / "not" / "there", needed=312_000_000))
    assert "there: no space left: 297.5 MiB needed, " in message
    assert message.count("free;") == 1


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1048570, "1.0 MiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes_have_units(size: int, text: str) -> None:
    assert readable_size(size) == text


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
