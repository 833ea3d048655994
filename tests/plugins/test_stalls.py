"""Marks of kernels that stopped waiting differ from every sample."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host_kernels import SOURCES

from wavernn_trt.plugins.stalls import Stall, find_stall


def test_samples_are_no_marks() -> None:
    labels = np.array([[3, 0], [7, 65535]], np.int32)
    assert find_stall(labels) is None
    values = np.array([[0.0, -1.0], [0.5, 1.0], [0.0, np.nan], [0.0, -np.nan], [0.0, -np.inf]], np.float32)
    assert find_stall(values) is None
    made_by_x86 = np.array([[0xFFC00000], [0x7FFFFFFF]], np.uint32).view(np.float32)
    assert find_stall(made_by_x86) is None
    assert find_stall(np.zeros((2, 3), np.uint16)) is None


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_mark_names_the_wait_that_was_stopped(tmp_path: Path, dtype: type) -> None:
    """As kernels/waiting.h makes it."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH; it compiles the kernels' own function")
    (tmp_path / "layout.cpp").write_text(
        '#include <cstdio>\n#include "waiting.h"\nusing namespace wavernn;\n'
        'int main() { std::printf("%u %u\\n", stall_word(FOR_OPERANDS, 131, 1023), stall_word(AT_BARRIER, 0, 0)); }\n'
    )
    program = tmp_path / "layout"
    subprocess.run(["g++", "-std=c++17", f"-I{SOURCES}", str(tmp_path / "layout.cpp"), "-o", str(program)], check=True)
    words = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    for word, expected in zip(
        map(int, words), (Stall("for operands of a product", 131, 1023), Stall("at a barrier", 0, 0)), strict=True
    ):
        samples = np.zeros((3, 4), dtype)
        samples.view(np.uint32)[1, -1] = word
        assert find_stall(samples) == expected
