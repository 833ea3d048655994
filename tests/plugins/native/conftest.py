"""The native decoder's library: the installed one, and builds of its sources with other flags."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from native_driver import SOURCES, compiler_flags

from wavernn_trt.plugins.cpu.library import NativeLibrary, NativeLibraryError, native_library

FLAGS = ("-fPIC", "-shared", "-g", "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized")
"""Beside those of setup.py. GCC takes the vectors that intrinsics leave undefined for uninitialised variables."""


@pytest.fixture(scope="session")
def library() -> NativeLibrary:
    """The installed library."""
    try:
        return native_library()
    except NativeLibraryError as error:
        pytest.skip(f"the native decoder: {error}")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function (flags...) -> the library built with g++ and these flags, once for each set of flags."""
    gxx = shutil.which("g++")
    if gxx is None:
        pytest.skip("g++ is not on PATH; builds of the native decoder need it")

    @functools.cache
    def compiled(*flags: str) -> Path:
        file = tmp_path_factory.mktemp("native") / "native.so"
        sources = sorted(map(str, SOURCES.glob("*.cpp")))
        subprocess.run([gxx, *compiler_flags(), *FLAGS, *flags, "-o", str(file), *sources], check=True)
        return file

    return compiled
