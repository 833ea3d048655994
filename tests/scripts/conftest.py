"""Fixtures of other folders that the benchmark's tests need, loaded by path: pytest's importlib mode has no imports."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


_scheduling = _load("scheduling_fixtures", TESTS / "runtime" / "scheduling" / "conftest.py")
directory, held, speak = _scheduling.directory, _scheduling.held, _scheduling.speak
mel_of = _scheduling.mel_of

_runtime = _load("runtime_fixtures", TESTS / "runtime" / "conftest.py")
simulated, voice, cache, store = _runtime.simulated, _runtime.voice, _runtime.cache, _runtime.store
rtx_installed, simulated_machine = _runtime.rtx_installed, _runtime.simulated_machine


@pytest.fixture
def bench(capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """A function (arguments) -> the exit code of ``wavernn-trt bench``, and what it wrote to stdout and stderr."""
    from wavernn_trt.scripts.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["bench", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
