"""Kernels of the host build in processes of their own: under a sanitizer, or with a rule broken in their sources."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from host_kernels import HARNESS, SOURCES, Part, Sanitizer, build_host_kernels

IMPORTS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from host_kernels import HostKernels
from kernel_cases import GruCase, SequenceCase, small_shapes
from wavernn_trt.plugins.stalls import find_stall

kernels = HostKernels(Path(sys.argv[1]))
"""
"""The beginning of the code that `run` and `run_sanitized` take."""
_SOURCE_TREE = Path(__file__).resolve().parents[3] / ".typing"


def with_source_tree(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python imports the product from this repository: the wheel has no scripts/gpu."""
    paths = filter(None, (str(_SOURCE_TREE), environment.get("PYTHONPATH")))
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def replace_once(file: Path, old: str, new: str) -> None:
    """Replaces text that occurs once in a source file."""
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} does not contain {old!r} exactly once"
    file.write_text(text.replace(old, new))


def run(library: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code, which begins with `IMPORTS`, on a library of kernels, in a process that they may end."""
    return subprocess.run(
        [sys.executable, "-c", code, str(library), str(HARNESS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=with_source_tree(os.environ),
    )


def run_sanitized(
    folder: Path,
    gxx: str,
    sanitizer: Sanitizer,
    library: str,
    code: str,
    sources: Path = SOURCES,
    parts: Sequence[Part] = ("sequence",),
) -> subprocess.CompletedProcess[str]:
    """Runs Python code with a library built under a sanitizer, whose own library comes first."""
    runtime = sanitizer_library(gxx, library)
    kernels = build_host_kernels(folder / "kernels.so", parts=parts, sanitizer=sanitizer, sources=sources)
    return run_with_sanitizer(runtime, sanitizer, ["-c", code, str(kernels), str(HARNESS)])


def sanitizer_library(gxx: str, library: str) -> Path:
    """Path of a sanitizer's library, such as libasan.so; skips the test where g++ has none."""
    found = subprocess.run([gxx, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
    runtime = Path(found.stdout.strip())
    if not runtime.is_absolute() or not runtime.exists():
        pytest.skip(f"g++ has no {library}")
    return runtime


def run_with_sanitizer(
    runtime: Path, sanitizer: Sanitizer, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Runs Python with a sanitizer's library loaded first."""
    # ThreadSanitizer needs addresses that newer systems' randomisation does not leave free.
    plain = ["setarch", platform.machine(), "-R"] if sanitizer == "thread" else []
    options = {"TSAN_OPTIONS": "exitcode=66 halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    environment = {**os.environ, **options, "LD_PRELOAD": str(runtime.resolve()), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [*plain, sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=with_source_tree(environment),
    )
