"""The kernels built for this machine, once a session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from host_kernels import SOURCES, HostKernels, build_host_kernels
from kernel_processes import with_source_tree

PRETENDED = Path(__file__).parent / "pretended"


@pytest.fixture(scope="session")
def gxx() -> str:
    """Path of g++."""
    path = shutil.which("g++")
    if path is None:
        pytest.skip("g++ is not on PATH; the kernels' host build needs it")
    return path


@pytest.fixture(scope="session")
def host_kernels(host_build: Path) -> HostKernels:
    """With one thread a warp."""
    return HostKernels(host_build)


@pytest.fixture(scope="session")
def warps_of_lanes(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """With sixteen threads a warp, so that the exchanges inside warps run."""
    return HostKernels(
        build_host_kernels(tmp_path_factory.mktemp("lanes") / "kernels.so", parts=["sequence"], lanes=16)
    )


@pytest.fixture(scope="session")
def warps_of_32_lanes(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """As a GPU has them; slow."""
    library = tmp_path_factory.mktemp("lanes32") / "kernels.so"
    return HostKernels(build_host_kernels(library, parts=["resident", "stepped"], lanes=32))


@pytest.fixture(scope="session")
def pretended_gpu(gxx: str, host_kernels: HostKernels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of processes that use the pretended driver, and an nvcc that compiles nothing."""
    folder = tmp_path_factory.mktemp("pretended")
    sources = [str(PRETENDED / f"{name}.cpp") for name in ("driver", "launch", "pycuda")] + [str(host_kernels.path)]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    flags += [f"-Wl,-rpath,{host_kernels.path.parent}", "-o", str(folder / "libcuda.so.1"), "-ldl"]
    subprocess.run([gxx, *sources, *flags], check=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{PRETENDED / "nvcc.py"}" "$@"\n')
    nvcc.chmod(0o755)
    environment = {**with_source_tree(os.environ), "OPENBLAS_NUM_THREADS": "1"}
    for name in ("LD_LIBRARY_PATH", "PATH"):
        environment[name] = os.pathsep.join(filter(None, (str(folder), environment.get(name))))
    return environment
