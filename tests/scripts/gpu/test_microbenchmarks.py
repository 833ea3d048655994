"""The microbenchmarks compile, and contain the instructions that they measure; no test runs them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from wavernn_trt.plugins.targets import TARGETS
from wavernn_trt.scripts.gpu.cubins import (
    MICROBENCHMARKS,
    build_microbenchmarks,
    find_tool,
    microbenchmark_architecture,
    microbenchmarks_program,
)

pytestmark = pytest.mark.slow  # nvcc compiles

SOME_TARGETS = (80, 120)
"""Besides 90, for which a whole program is built; ``WAVERNN_TRT_ALL_TARGETS`` in the environment selects all."""


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = find_tool("nvcc")
    if found is None:
        pytest.skip("nvcc is not on PATH and not in /usr/local/cuda")
    return found


@pytest.mark.parametrize("target", TARGETS if "WAVERNN_TRT_ALL_TARGETS" in os.environ else SOME_TARGETS)
def test_the_microbenchmarks_compile_without_warnings_or_spills(nvcc: Path, tmp_path: Path, target: int) -> None:
    options = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "-cubin"]
    options += [f"-arch={microbenchmark_architecture(target)}", "-o", str(tmp_path / "cubin")]
    done = subprocess.run([str(nvcc), *options, str(MICROBENCHMARKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)) == {("0", "0")}


def test_polls_overlap_and_hopper_s_instructions_are_used(nvcc: Path, tmp_path: Path) -> None:
    ptx = tmp_path / "microbenchmarks.ptx"
    options = ["-std=c++17", "-O3", f"-arch={microbenchmark_architecture(90)}", "-ptx", "-o", str(ptx)]
    subprocess.run([str(nvcc), *options, str(MICROBENCHMARKS)], check=True, capture_output=True)
    kernels = re.split(r"(?=\.visible \.entry )", ptx.read_text())
    for polls in (1, 4, 8):
        (kernel,) = (one for one in kernels if f"exchangeILi{polls}E" in one.partition("(")[0])
        # Each block without branches has all loads of the polls in flight, or none.
        blocks = re.split(r"\n\$L|\n.*\bbra\b", kernel)
        assert {block.count("ld.relaxed.gpu.global.v2.u64") for block in blocks} - {0} == {polls}
    text = "".join(kernels)
    for instruction in ("wgmma.mma_async.sync.aligned.m64n128k16", "griddepcontrol.wait", "barrier.cluster.arrive"):
        assert instruction in text, instruction


def test_a_program_of_the_same_source_is_built_once(nvcc: Path, tmp_path: Path) -> None:
    program = build_microbenchmarks(tmp_path, 90)
    assert program == microbenchmarks_program(tmp_path, 90)
    assert [path.name for path in tmp_path.iterdir()] == [program.name]
    made = program.stat().st_mtime_ns
    assert build_microbenchmarks(tmp_path, 90).stat().st_mtime_ns == made
