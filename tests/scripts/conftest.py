"""Runs commands in this process or in another one; has fixtures of other test folders.

Those are loaded by path, as pytest's importlib mode puts no test folder on the import path.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts import vocode_run
from wavernn_trt.scripts.cli import main

TESTS = Path(__file__).resolve().parents[1]
SECONDS = 120
"""Longer than any process of these tests takes."""
Command = Callable[..., tuple[int, str, str]]


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


_scheduling = _load("scheduling_fixtures", TESTS / "runtime" / "scheduling" / "conftest.py")
directory, held, held_vocoder = _scheduling.directory, _scheduling.held, _scheduling.make_vocoder
mel_of = _scheduling.mel_of

_runtime = _load("runtime_fixtures", TESTS / "runtime" / "conftest.py")
simulated, voice, cache, store = _runtime.simulated, _runtime.voice, _runtime.cache, _runtime.store
rtx_installed, simulated_machine = _runtime.rtx_installed, _runtime.simulated_machine


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """A function (arguments of ``wavernn-trt``) -> its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def bench(command: Command) -> Command:
    """A function (arguments of ``wavernn-trt bench``) -> its exit code, stdout and stderr."""
    return partial(command, "bench")


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """A function (arguments of ``wavernn-trt``) -> its process, which executes ``code`` first."""
    begun: list[subprocess.Popen[Any]] = []

    def start(*arguments: object, code: str = "", **options: Any) -> subprocess.Popen[Any]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        program = f"import sys\n{code}\nfrom wavernn_trt.scripts.cli import main\nsys.exit(main())"
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], env=environment, **options)
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate(timeout=SECONDS)


@pytest.fixture
def tiny_voice(tmp_path: Path, tiny_vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test whose ``vocode`` loads the tiny voice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vocode_run, "load_model", lambda *_: tiny_vocoder.loaded)
    return tmp_path
