"""Who runs a case: the GPU, or the same sources built for this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.device_kernels import DeviceKernels
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.host_kernels import SOURCES, HostKernels, build_host_kernels
from wavernn_trt.plugins.kernel_cases import Arrays, GruCase, SequenceCase
from wavernn_trt.plugins.targets import Device
from wavernn_trt.scripts.gpu.tasks import MissingError


class Runner(Protocol):
    """Runs cases on outputs full of NaN."""

    captures: bool
    """Whether it can run a case through a CUDA graph."""

    @property
    def device(self) -> Device:
        """What kernels are planned for."""

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> NDArray[np.float32]:
        """The new hidden state, of the case's inputs or of others."""

    def sequence(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        choice: Choice | None = None,
        captured: bool = False,
    ) -> Arrays:
        """The node's outputs, by a kernel, or by the one that a user would get."""


class DeviceRunner(DeviceKernels):
    """On the GPU whose context is current."""

    captures = True

    @property
    def device(self) -> Device:
        """See `Runner`."""
        return driver.current_device()[1]


class HostRunner:
    """On this machine's processor."""

    captures = False
    device = Device("host", 90, 16, 1 << 17, 1 << 17)
    """Whose groups of blocks have two blocks each, whatever is planned."""

    def __init__(self, folder: Path) -> None:
        """Builds the kernels.

        Args:
            folder: where a library may be put.

        Raises:
            KernelError: g++ is missing, or does not compile them.
        """
        self._kernels = HostKernels(host_library(folder))

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> NDArray[np.float32]:
        """See `Runner`."""
        del captured
        return self._kernels.gru_cell(case, inputs, warps=2)

    def sequence(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        choice: Choice | None = None,
        captured: bool = False,
    ) -> Arrays:
        """See `Runner`."""
        del captured
        try:
            found = self._kernels.run(case, inputs, choice or Choice("sequence"), warps=2)
        except KernelError as error:  # two blocks cannot hold what all of a GPU's can
            raise MissingError(f"the host build does not run it: {error}") from error
        return {operand.name: found[operand.name] for operand in case.shape.outputs_of_node()}


def library_name() -> str:
    """Of the host build, different for different sources."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.is_file()))
    return f"kernels_{digest.hexdigest()[:16]}.so"


def host_library(folder: Path, *, build: bool = True) -> Path:
    """The host build of these sources, in a folder; once for all processes of a run.

    Args:
        folder: where it is put.
        build: whether to build it where it is not there yet, which takes a minute.

    Raises:
        KernelError: g++ is missing, or does not compile it.
        MissingError: it is not there, and is not to be built.
    """
    library = folder / library_name()
    if not library.exists():
        if not build:
            raise MissingError("there is no host build")
        folder.mkdir(parents=True, exist_ok=True)
        build_host_kernels(library.with_suffix(".part")).replace(library)
    return library


def kernel_cache(folder: Path) -> KernelCache:
    """Compiled kernels of a run, in its own folder."""
    return KernelCache(folder / "kernels")
