"""Compilers of kernel sources, nvcc and NVRTC, behind one protocol. Neither needs a GPU."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from wavernn_trt.plugins.errors import KernelError

OPTIONS = ("-std=c++17", "--fmad=false")
"""``--fmad=false``: only ``fmaf`` in the source is a fused multiply-add. Otherwise the compiler may fuse differently in
two copies of one loop, and the bits of a stream would depend on its position in the batch."""
_TOOLKIT = Path("/usr/local/cuda/bin/nvcc")


@dataclass(frozen=True)
class Compiled:
    """Output of a compiler."""

    cubin: bytes
    log: str
    """Messages, including the resource usage that ptxas prints."""


class Compiler(Protocol):
    """Compiles one source with the headers beside it."""

    @property
    def kind(self) -> str:
        """``nvcc`` or ``nvrtc``."""

    @property
    def version(self) -> str:
        """Version number."""

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        """Compiles for one target.

        Args:
            source: a ``.cu`` file; its headers are in the same folder.
            defines: macros, ``NAME=VALUE``.
            target: compute capability, 10 * major + minor.

        Raises:
            KernelError: the source does not compile; contains the compiler's messages.
        """


class Nvcc:
    """The compiler of the CUDA toolkit."""

    kind = "nvcc"

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def version(self) -> str:
        """Version number, such as ``13.0.88``."""
        output = self._run(["--version"])
        found = re.search(r"V(\d+[.\d]*)", output)
        if found is None:
            raise KernelError(f"{self._path} --version: found no version number in: {output.strip()}")
        return found[1]

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder) / "kernel.cubin"
            options = [*OPTIONS, "-O3", f"-arch=sm_{target}", "-cubin", "-Xptxas", "-v"]
            log = self._run([*options, *(f"-D{define}" for define in defines), str(source), "-o", str(cubin)])
            return Compiled(cubin.read_bytes(), log)

    def _run(self, arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run([str(self._path), *arguments], capture_output=True, text=True, check=False)
        except OSError as error:
            raise KernelError(f"{self._path} does not run: {error}") from error
        if done.returncode:
            raise KernelError(_failure(f"{self._path} {' '.join(arguments)}", done.stderr + done.stdout))
        return done.stdout + done.stderr


class Nvrtc:
    """NVIDIA's runtime compilation library, through cuda-bindings."""

    kind = "nvrtc"

    def __init__(self) -> None:
        """Loads the library.

        Raises:
            KernelError: the bindings or the library are missing.
        """
        try:
            self._nvrtc: Any = import_module("cuda.bindings.nvrtc")
        except ImportError as error:
            raise KernelError(f"NVRTC cannot be used ({error}); {_WAY_OUT}") from error
        try:
            (major, minor) = self._call("nvrtcVersion")
        except KernelError:
            raise
        except Exception as error:  # the type of the exception differs between versions of the bindings
            raise KernelError(f"the NVRTC library is missing ({type(error).__name__}: {error}); {_WAY_OUT}") from error
        self.version = f"{major}.{minor}"

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        headers = sorted(source.parent.glob("*.h"))
        (program,) = self._call(
            "nvrtcCreateProgram",
            source.read_bytes(),
            source.name.encode(),
            len(headers),
            [header.read_bytes() for header in headers],
            [header.name.encode() for header in headers],
        )
        try:
            options = [*OPTIONS, f"--gpu-architecture=sm_{target}", "--ptxas-options=-v"]
            options += [f"-D{define}" for define in defines]
            (code,) = self._nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
            (size,) = self._call("nvrtcGetProgramLogSize", program)
            log = bytearray(size)
            self._call("nvrtcGetProgramLog", program, log)
            messages = log.decode(errors="replace").rstrip("\0 \n")
            if code != self._nvrtc.nvrtcResult.NVRTC_SUCCESS:
                raise KernelError(_failure(f"NVRTC {self.version}, {source.name}, sm_{target}: {code.name}", messages))
            (size,) = self._call("nvrtcGetCUBINSize", program)
            cubin = bytearray(size)
            self._call("nvrtcGetCUBIN", program, cubin)
            return Compiled(bytes(cubin), messages)
        finally:
            self._call("nvrtcDestroyProgram", program)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *results = getattr(self._nvrtc, name)(*arguments)
        if code != self._nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelError(f"{name} failed with {code.name}")
        return tuple(results)


_WAY_OUT = (
    "install a CUDA toolkit so that nvcc is on PATH, or `pip install cuda-bindings nvidia-cuda-nvrtc` in the version "
    "of the driver's CUDA"
)


def find_nvcc() -> Nvcc | None:
    """Returns the nvcc on PATH, else that in /usr/local/cuda, else None."""
    path = shutil.which("nvcc") or (str(_TOOLKIT) if _TOOLKIT.exists() else None)
    return Nvcc(Path(path)) if path else None


def find_compiler() -> Compiler:
    """Returns nvcc if it is installed, else NVRTC.

    Raises:
        KernelError: neither is installed; names what to install.
    """
    nvcc = find_nvcc()
    if nvcc is not None:
        return nvcc
    try:
        return Nvrtc()
    except KernelError as error:
        raise KernelError(f"no CUDA compiler: nvcc is not on PATH, and {error}") from error


def _failure(what: str, messages: str) -> str:
    hint = ""
    if "nsupported gpu architecture" in messages or "invalid value for --gpu-architecture" in messages:
        hint = "\nThis compiler is older than the target; install a CUDA toolkit that supports it (sm_120: 12.8)."
    return f"a kernel does not compile: {what}\n{messages.strip()}{hint}"
