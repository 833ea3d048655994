"""The native decoder's library: what it is built from, what it contains, and how it is found and refused."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from native_driver import ROOT, SOURCES, compiler_flags

from wavernn_trt.plugins.cpu import library
from wavernn_trt.plugins.cpu.library import (
    VERSION,
    ChunkArguments,
    Description,
    MatrixDescription,
    NativeLibraryError,
    load_library,
)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH (Debian: apt install g++)")
MODULE_FILE = "wavernn_trt/plugins/cpu/_native"
NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++", "PATH": "/nonexistent"}
LAYOUTS = {1: "343dd4ebf6094eac", 2: "cc6a8d15689c2731"}
"""Digest of the structures' fields by version of the library."""


@dataclass(frozen=True)
class Build:
    """What ``setup.py build_ext`` made."""

    library: Path
    objects: Path


def source_tree(folder: Path) -> Path:
    """Copies the clone without what was built in it."""
    unwanted = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", ".*_cache", ".hypothesis", "__pycache__", "*.so", "*.pyd"
    )
    return Path(shutil.copytree(ROOT, folder, ignore=unwanted, symlinks=True))


def run(*command: str | Path, cwd: Path = Path("/"), **variables: str) -> str:
    """Returns what a command prints; without compiler flags from outside, and with these environment variables."""
    unwanted = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "PYTHONPATH", library.PATH_VARIABLE)
    environment = {name: value for name, value in os.environ.items() if name not in unwanted} | variables
    arguments = [str(argument) for argument in command]
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def require_setuptools() -> None:
    pytest.importorskip("setuptools", minversion="77", reason="builds the extension module")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    require_setuptools()
    folder = tmp_path_factory.mktemp("build")
    tree = source_tree(folder / "tree")
    run(
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        folder / "lib",
        "--build-temp",
        folder / "temp",
        cwd=tree,
    )
    (found,) = (folder / "lib").glob(f"{MODULE_FILE}.*")
    return Build(found, folder / "temp" / "plugins" / "cpu")


def symbols(file: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Yields the kind, a letter of nm, and the name of each symbol."""
    for line in run("nm", *options, file).splitlines():
        kind, name = line.split()[-2:]
        yield kind, name.split("@")[0]


@pytest.mark.slow
def test_code_of_an_instruction_set_is_not_shared_with_other_files(built: Build) -> None:
    """A linker keeps one copy of a weak symbol: a baseline file could then run AVX-512 instructions."""
    for file in built.objects.glob("path_*.o"):
        defined = dict.fromkeys(symbols(file, "--defined-only"))
        assert not [(kind, name) for kind, name in defined if kind in "VvWwu"], file.name
    assert "D" in {kind for kind, _ in symbols(built.objects / "path_plain.o", "--defined-only")}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86-64")
def test_only_paths_use_vector_instructions(built: Build) -> None:
    found = {file.stem: run("objdump", "--disassemble", file) for file in built.objects.glob("*.o")}
    uses = {
        name: [register for register in ("%ymm", "%zmm", "%k1") if register in text] for name, text in found.items()
    }
    assert uses.pop("path_avx2") == ["%ymm"]
    assert "%zmm" in uses.pop("path_avx512")
    assert {"decoder", "module", "path_plain"} <= set(uses)
    assert not any(uses.values()), uses
    for name in uses:
        instructions = {line.split("\t")[2].split()[0] for line in found[name].splitlines() if line.count("\t") >= 2}
        assert not {one for one in instructions if one.startswith("v")}, name


@pytest.mark.slow
def test_the_library_exports_the_functions_that_python_calls(built: Build) -> None:
    exported = {name for kind, name in symbols(built.library, "--dynamic", "--defined-only") if kind == "T"}
    functions = ("version", "path", "open", "close", "decode", "work", "apply", "read_bandwidth", "peak", "de_emphasis")
    assert exported == {"PyInit__native", *(f"wavernn_native_{name}" for name in functions)}
    needed = {name for _, name in symbols(built.library, "--dynamic", "--undefined-only") if "Py" in name}
    assert needed == {"PyModuleDef_Init"}


@pytest.mark.slow
def test_python_imports_the_library(built: Build) -> None:
    code = "import _native; print(_native.__doc__)"
    assert "ctypes" in run(sys.executable, "-c", code, cwd=built.library.parent)


@pytest.mark.slow
def test_the_library_loads(built: Build) -> None:
    loaded = load_library(str(built.library))
    assert loaded.paths[-1] == library.PORTABLE
    assert loaded.path in loaded.paths


def test_results_that_depend_on_the_compiler_are_refused() -> None:
    command = ["g++", *compiler_flags(), "-fsyntax-only", str(SOURCES / "path_plain.cpp")]
    assert subprocess.run(command, check=False).returncode == 0
    refused = subprocess.run([*command, "-ffast-math"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "remove them from CXXFLAGS" in refused.stderr


@pytest.mark.parametrize(
    ("source", "found"),
    [("", "no version number"), ('extern "C" int wavernn_native_version() { return 0; }', "version 0")],
)
def test_a_library_of_other_sources_is_refused(source: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "other.cpp").write_text(source)
    run("g++", "-shared", "-fPIC", "-o", tmp_path / "other.so", tmp_path / "other.cpp")
    with pytest.raises(NativeLibraryError, match=f"other.so .*: found {found}, expected version {VERSION}; run pip"):
        load_library(str(tmp_path / "other.so"))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(NativeLibraryError, match=r"does not load: .*text\.so.*; run pip"):
        load_library(str(tmp_path / "text.so"))


def fields() -> Iterator[tuple[str, str, int, int]]:
    """Yields structure, field, offset and size."""
    names = {MatrixDescription: "MatrixDescription", Description: "Description", ChunkArguments: "Chunk"}
    for structure, name in names.items():
        for field, *_ in structure._fields_:
            place = getattr(structure, field)
            yield name, field, place.offset, place.size


def test_structures_are_those_of_the_library(tmp_path: Path) -> None:
    lines = ['#include "description.h"', "using namespace wavernn;", f"static_assert(VERSION == {VERSION});"]
    for structure, field, offset, size in fields():
        lines.append(f"static_assert(offsetof({structure}, {field}) == {offset});")
        lines.append(f"static_assert(sizeof({structure}::{field}) == {size});")
    lines.append(f"static_assert(sizeof(Description) == {ctypes.sizeof(Description)});")
    lines.append(f"static_assert(sizeof(Chunk) == {ctypes.sizeof(ChunkArguments)});")
    (tmp_path / "layout.cpp").write_text("\n".join(lines))
    run("g++", "-std=c++17", "-fsyntax-only", f"-I{SOURCES}", tmp_path / "layout.cpp")


def test_a_change_of_structures_has_a_new_version() -> None:
    """Otherwise a library that was built before it would be used with the wrong structures."""
    digest = hashlib.sha256(repr(list(fields())).encode()).hexdigest()[:16]
    assert LAYOUTS.get(VERSION) == digest, "raise VERSION in description.h and library.py, and add its digest here"


# Installed copies: built without downloads, in a tree of their own, and run by a virtual environment of their own.


def build_wheel(source: Path, folder: Path, **variables: str) -> Path:
    pytest.importorskip("pip", reason="builds the wheel")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir")
    run(sys.executable, "-m", "pip", "wheel", *options, folder, source, **variables)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Installs a wheel in a new virtual environment, which finds what it depends on in this one; returns its Python."""
    venv.create(environment, symlinks=os.name != "nt")
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


LOAD = """
import importlib.util
from wavernn_trt.plugins.cpu import library
print(library.native_library().paths[-1], importlib.util.find_spec(library.MODULE).origin)
"""


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_setuptools()
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "setup.py", "sdist", "--dist-dir", folder, cwd=source_tree(folder / "tree"))
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.mark.slow
def test_the_source_distribution_has_the_sources(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(file.relative_to(ROOT)) for pattern in ("*.cpp", "*.h") for file in SOURCES.glob(pattern)}
    assert sources | {"setup.py", "setup.cfg"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyd"))]


@pytest.mark.slow
def test_a_wheel_has_the_library_and_not_its_sources(source_distribution: Path, tmp_path: Path) -> None:
    wheel = build_wheel(source_distribution, tmp_path / "wheel")
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert "-cp310-abi3-" in wheel.name
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("wavernn_trt/plugins/cpu/")]
    assert len([name for name in names if name.startswith(f"{MODULE_FILE}.")]) == 1
    assert not [name for name in names if name.endswith((".cpp", ".h"))]
    python = install(wheel, tmp_path / "environment")
    path, origin = run(python, "-c", LOAD).split()
    assert path == library.PORTABLE
    assert Path(origin).is_relative_to(tmp_path / "environment")


@pytest.mark.slow
def test_without_a_compiler_it_installs_and_the_decoder_has_a_way_out(tmp_path: Path) -> None:
    require_setuptools()
    wheel = build_wheel(source_tree(tmp_path / "tree"), tmp_path / "wheel", **NO_COMPILER)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(f"{MODULE_FILE}.")]
    python = install(wheel, tmp_path / "environment")
    code = (
        "from wavernn_trt.plugins.cpu import library\n"
        "try:\n    library.native_library()\nexcept library.NativeLibraryError as error:\n    print(error)"
    )
    printed = run(python, "-c", code).strip()
    assert printed == f"the native decoder was not built when this package was installed: {library.INSTALL}"
    assert "apt install g++" in printed


@pytest.mark.nightly
def test_an_editable_install_builds_the_library_in_the_clone(tmp_path: Path) -> None:
    require_setuptools()
    tree = source_tree(tmp_path / "tree")
    code = (
        f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"  # as pip install -e . does
    )
    run(sys.executable, "-c", code, cwd=tree)
    (built,) = (tree / "plugins" / "cpu").glob("_native.*")
    assert library.load_library(str(built)).paths == library.native_library().paths
