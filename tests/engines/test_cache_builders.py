"""Builders of one plan wait for each other, and a build that ends early does not block the next."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from wavernn_trt.engines.cache import EngineCache

PROGRAM = Path(__file__).with_name("cache_plans.py")
plans = SimpleNamespace(**runpy.run_path(str(PROGRAM)))
STEM: str = plans.STEM
KEY: str = plans.key_of(1)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def start(cache: EngineCache) -> Iterator[Start]:
    """Starts another builder of the plan of a number; see cache_plans.py."""
    started: list[subprocess.Popen[str]] = []

    def run(number: int = 1, stem: str = STEM) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), str(cache.folder), stem, str(number)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def send(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def contents(cache: EngineCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.name not in ("locks", "CACHEDIR.TAG"))


def test_the_next_builder_removes_the_files_of_a_killed_one(cache: EngineCache, start: Start) -> None:
    process = start()
    left = Path(line(process).removeprefix("building "))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left.name.startswith(f".building-{KEY[:8]}-{process.pid}-")
    assert (left / "engine.plan").is_file()
    assert cache.find(STEM, KEY) is None
    assert cache.scan() == []
    stored = plans.store(cache, 1)
    assert cache.find(STEM, KEY) == stored
    assert contents(cache) == [stored.name]


def test_pruning_removes_files_of_killed_builders_and_none_of_running_ones(cache: EngineCache, start: Start) -> None:
    killed, living = start(1), start(2)
    left, growing = (Path(line(process).removeprefix("building ")) for process in (killed, living))
    killed.kill()
    killed.wait()
    assert cache.prune(dry_run=True).left_overs == 1
    assert left.is_dir()
    assert cache.prune(everything=True).left_overs == 1
    assert (left.exists(), growing.is_dir()) == (False, True)
    send(living, "commit")
    assert line(living).startswith("stored")


def test_a_second_builder_waits_and_then_finds(cache: EngineCache, start: Start) -> None:
    first = start()
    assert line(first).startswith("building")
    second = start()
    assert line(second) == f"waiting for process {first.pid}, which is building the same plan"
    send(first, "commit")
    assert line(first).startswith("stored")
    assert line(second) == f"found {STEM}_{KEY[:8]}"
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_second_builder_takes_over_where_the_first_is_killed(cache: EngineCache, start: Start) -> None:
    first = start()
    left = Path(line(first).removeprefix("building "))
    second = start(stem="the-same-model-under-another-name")
    assert line(second).startswith(f"waiting for process {first.pid}")
    first.kill()
    assert line(second).startswith("building")
    assert not left.exists()
    send(second, "commit")
    assert line(second) == f"stored the-same-model-under-another-name_{KEY[:8]}"
    assert cache.find(STEM, KEY) is not None


def test_builders_of_different_plans_do_not_wait(cache: EngineCache, start: Start) -> None:
    first = start(1)
    assert line(first).startswith("building")
    stored = plans.store(cache, 2)
    assert cache.find(STEM, plans.key_of(2)) == stored
    send(first, "commit")
    assert line(first).startswith("stored")
    assert len(cache.scan()) == 2


def test_threads_of_one_process_wait_too(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    results = []

    def build() -> None:
        with cache.building(STEM, KEY):
            results.append(cache.find(STEM, KEY))

    thread = Thread(target=build)
    with cache.building(STEM, KEY) as building:
        thread.start()
        thread.join(timeout=0.6)  # long enough for its message
        assert thread.is_alive()
        made = building.folder / "engine.plan"
        made.write_bytes(plans.content_of(1))
        stored = building.commit(made, plans.record_of(plans.content_of(1), KEY))
    thread.join()
    assert results == [stored]
    assert f"waiting for process {os.getpid()}" in caplog.text


def test_an_interrupted_builder_leaves_nothing(cache: EngineCache, start: Start) -> None:
    process = start()
    assert line(process).startswith("building")
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert contents(cache) == []


def test_a_builder_that_fails_leaves_nothing(cache: EngineCache, start: Start) -> None:
    process = start()
    assert line(process).startswith("building")
    send(process, "raise")
    assert "this builder fails" in process.communicate()[1]
    assert contents(cache) == []
    assert plans.store(cache, 1).plan.is_file()


def test_an_interrupt_while_another_builds_ends_the_waiting(cache: EngineCache, start: Start) -> None:
    first = start()
    assert line(first).startswith("building")
    second = start()
    assert line(second).startswith("waiting")
    second.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in second.communicate()[1]
    send(first, "commit")
    assert line(first).startswith("stored")
