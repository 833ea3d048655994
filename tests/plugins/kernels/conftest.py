"""The kernels built for this machine, once a session."""

from __future__ import annotations

import shutil

import pytest

from wavernn_trt.plugins.host_kernels import HostKernels, build_host_kernels


@pytest.fixture(scope="session")
def gxx() -> str:
    """Path of g++."""
    path = shutil.which("g++")
    if path is None:
        pytest.skip("g++ is not on PATH; the kernels' host build needs it")
    return path


@pytest.fixture(scope="session")
def host_kernels(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """With one thread a warp."""
    return HostKernels(build_host_kernels(tmp_path_factory.mktemp("host") / "kernels.so"))


@pytest.fixture(scope="session")
def warps_of_lanes(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """With sixteen threads a warp, so that the exchanges inside warps run."""
    return HostKernels(build_host_kernels(tmp_path_factory.mktemp("lanes") / "kernels.so", lanes=16))
