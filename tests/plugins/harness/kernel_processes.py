"""Kernels of the host build in processes of their own: under a sanitizer, or with a rule broken in their sources."""

from __future__ import annotations

import os
import platform
import shutil
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


def _in_tiles(kernel: str) -> str:
    return f"tile == 1 ? {kernel}, 1>(b, *a) : tile == 4 ? {kernel}, 4>(b, *a) : {kernel}, 8>(b, *a)"


_FEW: Mapping[Part, Mapping[str, str]] = {
    "sequence": {"gru_cell": _in_tiles("gru_cell<Half"), "sequence": _in_tiles("sequence<BFloat16")},
    "resident": {
        "resident_stamped_8": "resident<Half, 1>(b, *a)",
        "resident_stamped_16": "resident<E4M3, 2>(b, *a)",
    },
    "stepped": {
        "stepped_begin": "begin_stepped<Half>(b, *a)",
        "stepped_units_0_32": "stepped_units_0<Half, 2>(b, *a)",
        "stepped_units_1_32": "stepped_units_1<Half, 2>(b, *a)",
        "stepped_rows_64x32": "stepped_rows<Half, 2, 1>(b, *a)",
        "stepped_draw": "draw_step(b, *a)",
    },
}
"""Calls of a block ``b`` with arguments ``*a``, by function: in one precision and the smallest tiles."""


def copy_sources(folder: Path, part: Part) -> Path:
    """Copies the kernels' sources; the part's host_*.cpp has few kernels there, so that it is compiled quickly."""
    sources = shutil.copytree(SOURCES, folder / "kernels")
    headers = ("gru_cell", "sequence") if part == "sequence" else (part,)
    lines = [*(f'#include "{header}.h"' for header in headers), "using namespace wavernn;"]
    tile = "int tile, " if part == "sequence" else ""
    for function, call in _FEW[part].items():
        arguments = "GruArguments" if function == "gru_cell" else f"{part.capitalize()}Arguments"
        lines.append(
            f'extern "C" int wavernn_{function}(\n'
            f"    const {arguments}* a, int, {tile}int blocks, int warps, int bytes) {{\n"
            f"    run_grid(blocks, warps, static_cast<std::size_t>(bytes), [&](const Block& b) {{ {call}; }});\n"
            "    return 0;\n"
            "}"
        )
    (sources / f"host_{part}.cpp").write_text("\n".join(lines) + "\n")
    return sources


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
    folder: Path, gxx: str, sanitizer: Sanitizer, library: str, code: str, sources: Path, parts: Sequence[Part]
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
