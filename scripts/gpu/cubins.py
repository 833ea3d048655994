"""Prebuilt cubins: compiled on any machine, loaded on the GPU's machine whatever compiler that one has."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.plugins.compile import KernelCache, source_hash
from wavernn_trt.plugins.compilers import Compiled, Compiler, find_compiler
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu.tools import find_tool, write_atomically

MICROBENCHMARKS = Path(__file__).with_name("microbenchmarks.cu")
_DESCRIPTION = "compiler.json"

VARIANTS: dict[str, tuple[str, ...]] = {}
"""Compile-time switches of the kernels, ``NAME=VALUE``, by a name for the table; each is timed beside the default."""


@dataclass(frozen=True)
class WithDefines:
    """A compiler that passes further definitions; its cubins are entries of their own in a cache."""

    compiler: Compiler
    defines: tuple[str, ...]

    @property
    def kind(self) -> str:
        """See `Compiler`."""
        return self.compiler.kind

    @property
    def version(self) -> str:
        """See `Compiler`; the definitions are part of it."""
        return " ".join((self.compiler.version, *self.defines))

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        """See `Compiler`."""
        return self.compiler.compile(source, (*defines, *self.defines), target)


@dataclass(frozen=True)
class PrebuiltCompiler:
    """Stands for the compiler that filled a folder of cubins: a cache finds its entries, and nothing is compiled."""

    folder: Path
    kind: str
    version: str

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        """Refuses: the cubin is not in the folder.

        Raises:
            KernelError: always.
        """
        raise KernelError(
            f"{self.folder} has no cubin of {source.name} for sm_{target} with {' '.join(defines)}: it was made for "
            f"other targets; run 'python -m wavernn_trt.scripts.gpu.run --prebuild FOLDER --targets {target}'"
        )


def prebuild(folder: Path, targets: Iterable[int], variants: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """Compiles every kernel, every variant of them, and the microbenchmarks.

    Args:
        folder: where to; it may hold cubins already.
        targets: compute capabilities, 10 * major + minor.
        variants: definitions by name; `VARIANTS` unless given.

    Returns:
        Notes on what could not be built.

    Raises:
        KernelError: there is no compiler, or a kernel does not compile.
    """
    compiler, targets = find_compiler(), tuple(targets)
    for defines in ((), *(VARIANTS if variants is None else variants).values()):
        KernelCache(folder, WithDefines(compiler, defines) if defines else compiler).get_all(targets=targets)
    described = {"kind": compiler.kind, "version": compiler.version, "sources": source_hash()}
    write_atomically(folder / _DESCRIPTION, json.dumps(described).encode())
    notes = []
    for target in targets:
        try:
            build_microbenchmarks(folder, target)
        except KernelError as error:
            notes.append(f"microbenchmarks for sm_{target}: {error}")
    for lock in folder.glob("*.lock"):
        lock.unlink()
    return notes


def open_cubins(folder: Path | None, own: Path, defines: tuple[str, ...] = ()) -> tuple[KernelCache, str]:
    """Opens a cache of compiled kernels.

    Args:
        folder: of prebuilt cubins, or ``None``.
        own: where kernels are compiled to instead, if there is none or it is of other sources.
        defines: of a variant.

    Returns:
        The cache, and in words where its cubins come from.

    Raises:
        KernelError: there are no usable prebuilt cubins and no compiler.
    """
    reason = "no prebuilt cubins"
    if folder is not None:
        try:
            told = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            prebuilt: Compiler = PrebuiltCompiler(folder, str(told["kind"]), str(told["version"]))
            matches = told["sources"] == source_hash()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KernelError(f"{folder}: found no folder of 'run --prebuild' ({error})") from error
        if matches:
            compiler = WithDefines(prebuilt, defines) if defines else prebuilt
            return KernelCache(folder, compiler), f"prebuilt by {prebuilt.kind} {prebuilt.version}"
        reason = f"the cubins in {folder} are of other sources"
    local = find_compiler()
    return (
        KernelCache(own, WithDefines(local, defines) if defines else local),
        f"{reason}: compiled here by {local.kind} {local.version}",
    )


def microbenchmarks_program(folder: Path, target: int) -> Path:
    """Where `build_microbenchmarks` puts the program for a target; another name for another source."""
    digest = hashlib.sha256(MICROBENCHMARKS.read_bytes()).hexdigest()
    return folder / f"microbenchmarks_{digest[:12]}_sm{target}"


def build_microbenchmarks(folder: Path, target: int) -> Path:
    """Builds the microbenchmarks, unless a program of the same source is there.

    Raises:
        KernelError: there is no nvcc, or it refuses.
    """
    program = microbenchmarks_program(folder, target)
    if program.exists():
        return program
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise KernelError("nvcc is not on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        built = Path(temporary) / "program"
        command = [str(nvcc), "-std=c++17", "-O3", f"-arch={microbenchmark_architecture(target)}"]
        done = subprocess.run(
            [*command, str(MICROBENCHMARKS), "-o", str(built)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise KernelError(f"nvcc refuses {MICROBENCHMARKS.name}: {done.stderr.strip()[-400:]}")
        built.replace(program)
    return program


def microbenchmark_architecture(target: int) -> str:
    """The architecture that they are compiled for: on Hopper with its own instructions, wgmma among them."""
    return f"sm_{target}a" if target == 90 else f"sm_{target}"
