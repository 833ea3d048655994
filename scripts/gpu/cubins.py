"""Prebuilt cubins: compiled on any machine with nvcc, loaded on the GPU's machine without a compiler."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.plugins.compile import KernelCache, KernelFile, source_hash
from wavernn_trt.plugins.compilers import Compiled, find_compiler
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision

MICROBENCHMARKS = Path(__file__).with_name("microbenchmarks.cu")
_TOOLKIT = "/usr/local/cuda/bin"
_DESCRIPTION = "compiler.json"
VARIANT_PRECISIONS: tuple[WeightPrecision, ...] = ("fp16",)


def find_tool(name: str) -> Path | None:
    """Path of a program on PATH, else in the CUDA toolkit's usual folder."""
    path = shutil.which(name) or shutil.which(name, path=_TOOLKIT)
    return Path(path) if path else None


@dataclass(frozen=True)
class Variant:
    """Kernels built with compile-time switches that differ from the defaults."""

    file: KernelFile
    """The file that the switches apply to; its kernels' names begin with it."""
    switches: tuple[str, ...]
    """``NAME=VALUE``."""


VARIANTS: dict[str, Variant] = {
    "serial-polls": Variant("resident", ("WAVERNN_POLLS_IN_FLIGHT=0",)),
    "row-order": Variant("stepped", ("WAVERNN_FRAGMENT_ORDER=0",)),
}
"""Timed beside the defaults to measure their gain: one load in flight when stamped words are polled, and weights in the
order of rows."""
TRACE = "WAVERNN_TRACE=1"
"""The switch of the trace build; see kernels/trace.h."""
TRACED_FILES: tuple[KernelFile, ...] = ("resident", "stepped")


@dataclass(frozen=True)
class PrebuiltCompiler:
    """Describes the compiler of a folder of cubins, so that a cache finds its entries; compiles nothing."""

    folder: Path
    kind: str
    version: str

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        """Raises `KernelError`: the cubin is not in the folder."""
        raise KernelError(
            f"{self.folder} has no cubin of {source.name} for sm_{target} with {' '.join(defines)}: it was built for "
            f"other targets; run 'python -m wavernn_trt.scripts.gpu.run --prebuild FOLDER --targets {target}'"
        )


def prebuild(folder: Path, targets: Iterable[int]) -> list[str]:
    """Compiles all kernels, their variants and the microbenchmarks.

    Args:
        folder: for the cubins; it may contain some already.
        targets: compute capabilities, 10 * major + minor.

    Returns:
        Notes on what could not be built.

    Raises:
        KernelError: there is no compiler, or a kernel does not compile.
    """
    compiler, targets = find_compiler(), tuple(targets)
    KernelCache(folder, compiler).get_all(targets=targets)
    for variant in VARIANTS.values():
        cache = KernelCache(folder, compiler, variant.switches)
        cache.get_all((variant.file,), VARIANT_PRECISIONS, targets)
    KernelCache(folder, compiler, (TRACE,)).get_all(TRACED_FILES, VARIANT_PRECISIONS, targets)
    described = {"kind": compiler.kind, "version": compiler.version, "sources": source_hash()}
    write_atomic(folder / _DESCRIPTION, json.dumps(described).encode())
    notes = []
    for target in targets:
        try:
            build_microbenchmarks(folder, target)
        except KernelError as error:
            notes.append(f"microbenchmarks for sm_{target}: {error}")
    for lock in folder.glob("*.lock"):
        lock.unlink()
    return notes


def why_unusable(folder: Path | None) -> str | None:
    """Returns why a folder's cubins cannot be used; ``None`` if they can."""
    if folder is None:
        return "no prebuilt cubins were given"
    try:
        if _description(folder)["sources"] == source_hash():
            return None
    except KernelError as error:
        return str(error)
    return f"the cubins in {folder} are of other sources"


def open_cubins(folder: Path | None, own: Path, switches: Sequence[str] = ()) -> tuple[KernelCache, str]:
    """Opens a cache of compiled kernels.

    Args:
        folder: of prebuilt cubins; without one, kernels are compiled as needed.
        own: folder for these compiled kernels.
        switches: of a variant.

    Returns:
        The cache, and the origin of its cubins in words.

    Raises:
        KernelError: the prebuilt cubins cannot be used, or there are none and no compiler.
    """
    if folder is None:
        compiler = find_compiler()
        origin = f"compiled as needed by {compiler.kind} {compiler.version}"
        return KernelCache(own, compiler, switches), origin
    if reason := why_unusable(folder):
        raise KernelError(reason)
    description = _description(folder)
    prebuilt = PrebuiltCompiler(folder, description["kind"], description["version"])
    origin = f"prebuilt by {prebuilt.kind} {prebuilt.version}"
    return KernelCache(folder, prebuilt, switches), origin


def _description(folder: Path) -> dict[str, str]:
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        return {name: str(description[name]) for name in ("kind", "version", "sources")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelError(f"{folder} is no folder of 'run --prebuild' ({error})") from error


def microbenchmarks_program(folder: Path, target: int) -> Path:
    """Path of the program for a target. Its name changes with the source."""
    digest = hashlib.sha256(MICROBENCHMARKS.read_bytes()).hexdigest()
    return folder / f"microbenchmarks_{digest[:12]}_sm{target}"


def build_microbenchmarks(folder: Path, target: int) -> Path:
    """Builds the microbenchmarks, unless a program of the same source exists.

    Raises:
        KernelError: there is no nvcc, or it fails.
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
            raise KernelError(f"nvcc failed to compile {MICROBENCHMARKS.name}: {done.stderr.strip()[-400:]}")
        built.replace(program)
    return program


def microbenchmark_architecture(target: int) -> str:
    """Architecture of the microbenchmarks; for Hopper with its own instructions, such as wgmma."""
    return f"sm_{target}a" if target == 90 else f"sm_{target}"
