"""No data race and no invalid access in the kernels, built for the host with real threads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from host_kernels import SOURCES, Sanitizer
from kernel_processes import IMPORTS, run_sanitized

pytestmark = pytest.mark.slow  # each case builds a library of the kernels

CODE = f"""{IMPORTS}
for batch, size in ((9, 5), (9, 16), (1, 1027)):
    case = GruCase(batch, size, "fp16")
    assert case.excess(kernels.gru_cell(case, warps=3 if size < 1024 else 32)) <= 1
for name, shape in small_shapes().items():
    for batch, settings in ((1, {{"blocks": 3}}), (9, {{"groups": 2, "warps": 2, "shared_bytes": 3000}})):
        case = SequenceCase(shape, "bf16", batch, steps=3)
        inputs = case.inputs()
        assert case.excess(kernels.sequence(case, inputs, **settings), inputs) <= 1, name
case = SequenceCase(small_shapes()["mixture"], "bf16", 5, steps=4)
for absent in range(1, 4):
    found = kernels.sequence(case, case.inputs(), blocks=4, waits=2000, absent=absent)
    assert find_stall(found["samples"]) is not None, absent
print("all as expected")
"""


@pytest.mark.parametrize(("sanitizer", "library"), [("thread", "libtsan.so"), ("address,undefined", "libasan.so")])
def test_kernels_run_clean(tmp_path: Path, gxx: str, sanitizer: Sanitizer, library: str) -> None:
    done = run_sanitized(tmp_path, gxx, sanitizer, library, CODE, copy_sources(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "all as expected"


def test_a_missing_barrier_is_a_reported_race(tmp_path: Path, gxx: str) -> None:
    """Without the one between the first layer and what reads its state."""
    sources = copy_sources(tmp_path)
    text = (sources / "sequence.h").read_text()
    stage = "        gru_stage<0, Streams>(c, step);\n        whole = group.sync(c.block, step);\n"
    assert stage in text
    (sources / "sequence.h").write_text(text.replace(stage, stage.splitlines()[0] + "\n"))
    code = IMPORTS + (
        "case = SequenceCase(small_shapes()['gaussian'], 'bf16', steps=30)\n"
        "inputs = case.inputs()\n"
        "for _ in range(500):\n"  # the first race ends it; a busy machine may run threads in step for a while
        "    kernels.sequence(case, inputs, blocks=3)\n"
    )
    done = run_sanitized(tmp_path, gxx, "thread", "libtsan.so", code, sources)
    assert done.returncode == 66
    assert "data race" in done.stderr


def copy_sources(folder: Path) -> Path:
    """The kernels' sources, host_sequence.cpp with what is run here alone: it is compiled quickly."""
    sources = shutil.copytree(SOURCES, folder / "kernels")
    lines = ['#include "gru_cell.h"', '#include "sequence.h"', "using namespace wavernn;"]
    for function, arguments, kernel in (
        ("gru_cell", "GruArguments", "gru_cell<Half"),
        ("sequence", "SequenceArguments", "sequence<BFloat16"),
    ):
        lines.append(
            f'extern "C" int wavernn_{function}(const {arguments}* a, int, int tile, int blocks, int warps, int bytes)'
            " {\n    run_grid(blocks, warps, static_cast<std::size_t>(bytes), [&](const Block& b) {\n"
            f"        tile == 1 ? {kernel}, 1>(b, *a) : tile == 4 ? {kernel}, 4>(b, *a) : {kernel}, 8>(b, *a);\n"
            "    });\n    return 0;\n}"
        )
    (sources / "host_sequence.cpp").write_text("\n".join(lines) + "\n")
    return sources
