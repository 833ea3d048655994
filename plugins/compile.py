"""Compiles kernel sources to cubins, one for each kernel file, precision and target, in a cache folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.plugins.compilers import OPTIONS, Compiler, find_compiler
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.plugins.targets import TARGETS, TENSOR_CORES_FROM

KernelFile = Literal["gru_cell", "sequence", "resident", "stepped"]
WEIGHTS: Mapping[KernelFile, tuple[WeightPrecision, ...]] = {
    "gru_cell": PRECISIONS,
    "sequence": PRECISIONS,
    "resident": ("fp16", "bf16", "fp8"),
    "stepped": ("fp16", "bf16", "fp8"),
}
"""Weight precisions of each kernel file."""
TENSOR_CORES: Mapping[KernelFile, int] = {"resident": TENSOR_CORES_FROM, "stepped": TENSOR_CORES_FROM}
"""Lowest compute capability of the kernel files that need tensor cores."""
SOURCES = Path(__file__).parent / "kernels"
_NUMBERS: dict[WeightPrecision, str] = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "fp8": "E4M3"}


@dataclass(frozen=True)
class CompiledKernels:
    """The kernels of one file, for one precision and target."""

    file: KernelFile
    precision: WeightPrecision
    target: int
    """Compute capability, 10 * major + minor."""
    cubin: bytes
    log: str
    """Output of the compiler."""
    compiled: bool
    """True if compiled by this call, False if read from the cache."""


class KernelCache:
    """A folder of cubins, safe for several processes and threads: each cubin is compiled once."""

    def __init__(
        self, folder: Path | None = None, compiler: Compiler | None = None, switches: Sequence[str] = ()
    ) -> None:
        """Creates and compiles nothing yet.

        Args:
            folder: folder of the cubins; default: ``kernels`` in the user's cache folder.
            compiler: the compiler; default: nvcc, or NVRTC where nvcc is missing.
            switches: compile-time switches of the sources, such as ``WAVERNN_POLLS_IN_FLIGHT=0``.
        """
        self._switches = tuple(switches)
        self._folder = folder
        self._compiler = compiler

    @functools.cached_property
    def folder(self) -> Path:
        """Folder of the cubins; raises as `default_folder`."""
        return self._folder or default_folder()

    @functools.cached_property
    def compiler(self) -> Compiler:
        """The compiler.

        Raises:
            KernelError: there is no compiler; names what to install.
        """
        return self._compiler or find_compiler()

    def get(self, file: KernelFile, precision: WeightPrecision, target: int) -> CompiledKernels:
        """Returns a cubin; compiles it if it is missing from the cache or damaged.

        Args:
            file: the kernel file.
            precision: precision of the weights.
            target: compute capability, 10 * major + minor.

        Raises:
            KernelError: there is no compiler, it fails, or the folder cannot be written.
        """
        key = self._key(file, precision, target)
        entry = self.folder / f"{file}_{precision}_sm{target}_{key[:16]}.cubin"
        found = _read(entry, key)
        if found is None:
            with _locked(entry):
                found = _read(entry, key)  # another process may have compiled it in the meantime
                if found is None:
                    done = self.compiler.compile(
                        SOURCES / f"{file}.cu", (*_defines(precision), *self._switches), target
                    )
                    _write(entry, key, done.cubin, done.log)
                    return CompiledKernels(file, precision, target, done.cubin, done.log, compiled=True)
        cubin, log = found
        return CompiledKernels(file, precision, target, cubin, log, compiled=False)

    def get_all(
        self,
        files: Iterable[KernelFile] = tuple(WEIGHTS),
        precisions: Iterable[WeightPrecision] = WEIGHT_PRECISIONS,
        targets: Iterable[int] = TARGETS,
    ) -> list[CompiledKernels]:
        """Returns the cubins of all supported combinations of the arguments; compiles in parallel; see `get`."""
        precisions, targets = tuple(precisions), tuple(targets)
        wanted = [
            (file, precision, target)
            for file in files
            for precision in precisions
            for target in targets
            if precision in WEIGHTS[file] and target >= TENSOR_CORES.get(file, 0)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda arguments: self.get(*arguments), wanted))

    def _key(self, file: KernelFile, precision: WeightPrecision, target: int) -> str:
        parts = [source_hash(), self.compiler.kind, self.compiler.version, *OPTIONS, file, *_defines(precision)]
        parts += self._switches
        return hashlib.sha256("\0".join([*parts, str(target)]).encode()).hexdigest()


@functools.cache
def source_hash() -> str:
    """Returns the SHA-256 of the names and contents of all kernel sources."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".h", ".cu"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def default_folder() -> Path:
    """Returns the folder of the compiled kernels of this user.

    Raises:
        KernelError: platformdirs is missing.
    """
    try:
        import platformdirs
    except ImportError as error:
        raise KernelError("platformdirs is missing: `pip install platformdirs`, or name a cache folder") from error
    return Path(platformdirs.user_cache_dir("wavernn-trt")) / "kernels"


def _defines(precision: WeightPrecision) -> Sequence[str]:
    return (f"WAVERNN_NUMBER={_NUMBERS[precision]}",)


def _read(entry: Path, key: str) -> tuple[bytes, str] | None:
    """Returns a cubin and the log of its compiler; None if missing, damaged or of another key."""
    try:
        cubin = entry.read_bytes()
        about = json.loads(entry.with_suffix(".json").read_text(encoding="utf-8"))
        if about["key"] == key and about["sha256"] == hashlib.sha256(cubin).hexdigest():
            return cubin, str(about["log"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(entry: Path, key: str, cubin: bytes, log: str) -> None:
    about = {"key": key, "sha256": hashlib.sha256(cubin).hexdigest(), "log": log}
    try:
        write_atomic(entry, cubin)
        # Written last: a cubin without its JSON file, or with that of another cubin, counts as damaged.
        write_atomic(entry.with_suffix(".json"), json.dumps(about).encode())
    except OSError as error:
        raise _unwritable(entry, error) from error


@contextlib.contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """Holds the lock file of a cubin; waits for other processes and threads.

    Raises:
        KernelError: filelock is missing, or the folder cannot be written.
    """
    try:
        import filelock
    except ImportError as error:
        raise KernelError("filelock is missing: `pip install filelock`") from error
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(entry.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise _unwritable(entry, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(entry: Path, error: OSError) -> KernelError:
    return KernelError(f"{entry.parent} cannot be written ({error.strerror}); name another folder for compiled kernels")
