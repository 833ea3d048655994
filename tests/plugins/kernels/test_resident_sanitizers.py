"""No data race and no invalid access in the resident kernels; broken rules are detected.

Stamped words are atomic and order nothing else, as on a GPU: all that blocks tell each other has to be in them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from host_kernels import SOURCES, Sanitizer, build_host_kernels
from kernel_processes import IMPORTS, replace_once, run, run_sanitized

from wavernn_trt.plugins.resident import VARIANTS

pytestmark = pytest.mark.slow  # each case builds a library of the kernels

NUMBERS = dict(zip(VARIANTS, ("Half", "E4M3"), strict=True))
PRECISIONS = {"Half": "fp16", "BFloat16": "bf16", "E4M3": "fp8"}
EVERYTHING = f"""{IMPORTS}
from wavernn_trt.plugins.resident import plan_resident
from wavernn_trt.plugins.targets import DeviceProperties

roomy = DeviceProperties("host", 0, 4, 1 << 20)
for kernel, precision in {[(kernel, PRECISIONS[number]) for kernel, number in NUMBERS.items()]}:
    for name, shape in small_shapes().items():
        plan = plan_resident(shape, precision, 9, roomy, kernel, groups=2, warps=2)
        half = plan.shared_bytes - sum(one.resident * one.set_bytes for one in plan.matrices.values()) // 2
        ragged = {{"groups": 2, "misalign": True, "shared_bytes": half, "in_place": True}}
        for batch, settings in ((1, {{"blocks": 3}}), (9, ragged)):
            case = SequenceCase(shape, precision, batch, steps=3)
            inputs = case.inputs()
            assert case.excess(kernels.resident(case, inputs, kernel, **settings), inputs) <= 1, (kernel, name)
print("all as expected")
"""
STALLED = f"""{IMPORTS}
for kernel, precision in {[(kernel, PRECISIONS[number]) for kernel, number in NUMBERS.items()]}:
    for batch in (1, 5):
        case = SequenceCase(small_shapes(hidden_size=33)["two layers, skip, values"], precision, batch, steps=6)
        settings = {{"blocks": 4, "waits": 3000, "absent": 1}}
        assert find_stall(kernels.resident(case, case.inputs(), kernel, **settings)["samples"]) is not None
print("all as expected")
"""
MANY_RUNS = """
case = SequenceCase(small_shapes(hidden_size=33)["two layers, skip, values"], "{precision}", batch={batch}, steps=20)
inputs = case.inputs()
for _ in range({runs}):  # the first fault ends it; a busy machine may run threads in step for a while
    found = kernels.resident(case, inputs, "{kernel}", blocks=5, waits=1 << 17, in_place=True)
    assert case.excess(found, inputs) <= 1, "another result"
print("all as expected")
"""


@pytest.mark.parametrize(("sanitizer", "library"), [("thread", "libtsan.so"), ("address,undefined", "libasan.so")])
def test_kernels_run_clean(tmp_path: Path, gxx: str, sanitizer: Sanitizer, library: str) -> None:
    sources = copy_sources(tmp_path, VARIANTS)
    done = run_sanitized(tmp_path, gxx, sanitizer, library, EVERYTHING, sources, parts=["resident"])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "all as expected"


@pytest.mark.parametrize("kernel", VARIANTS)
def test_many_runs_of_unchanged_kernels_have_no_race(tmp_path: Path, gxx: str, kernel: str) -> None:
    """What the broken ones are measured by."""
    library = build_host_kernels(tmp_path / "kernels.so", parts=["resident"], sources=copy_sources(tmp_path, [kernel]))
    for batch in (1, 8):
        done = run(library, many_runs(kernel, batch=batch, runs=4))
        assert (done.returncode, done.stdout.strip()) == (0, "all as expected"), done.stderr[-2000:]


def test_blocks_that_stop_waiting_end_without_a_race(tmp_path: Path, gxx: str) -> None:
    sources = copy_sources(tmp_path, VARIANTS)
    done = run_sanitized(tmp_path, gxx, "thread", "libtsan.so", STALLED, sources, parts=["resident"])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "all as expected"


RACES = {
    "no turns in the meeting place": ("resident_stamped_8", "patch_product.h", "turn_ ^= 1;", "turn_ ^= 0;"),
    "no barrier at the end": (
        "resident_stamped_8",
        "resident.h",
        "group.sync(block, a.steps);  // previous and",
        "block.sync();  // previous and",
    ),
}
FAULTS = {
    "every stamp the same": (
        "resident_stamped_8",
        "mailbox.h",
        "return static_cast<unsigned>(step + 2);",
        "return static_cast<unsigned>(step * 0 + 2);",
        "another result",
    ),
    "words of neighbouring steps in one place": (
        "resident_stamped_8",
        "mailbox.h",
        "return (step & 1) * words_;",
        "return (step & 0) * words_;",
        "another result",
    ),
}


@pytest.mark.parametrize("name", RACES)
def test_a_missing_barrier_is_a_reported_race(tmp_path: Path, gxx: str, name: str) -> None:
    kernel, file, old, new = RACES[name]
    sources = copy_sources(tmp_path, [kernel])
    replace_once(sources / file, old, new)
    done = run_sanitized(tmp_path, gxx, "thread", "libtsan.so", many_runs(kernel), sources, parts=["resident"])
    assert done.returncode == 66, done.stdout + done.stderr[-2000:]
    assert "data race" in done.stderr


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_stamps_change_the_result(tmp_path: Path, gxx: str, name: str) -> None:
    kernel, file, old, new, message = FAULTS[name]
    sources = copy_sources(tmp_path, [kernel])
    replace_once(sources / file, old, new)
    library = build_host_kernels(tmp_path / "kernels.so", parts=["resident"], sources=sources)
    done = run(library, many_runs(kernel))
    assert done.returncode != 0, done.stdout
    assert message in done.stderr


def many_runs(kernel: str, batch: int = 8, runs: int = 200) -> str:
    """Returns code that runs a kernel many times."""
    return IMPORTS + MANY_RUNS.format(kernel=kernel, precision=PRECISIONS[NUMBERS[kernel]], batch=batch, runs=runs)


def copy_sources(folder: Path, kernels: Iterable[str]) -> Path:
    """The kernels' sources, with a host_resident.cpp that has only those kernels and so is compiled quickly."""
    sources = shutil.copytree(SOURCES, folder / "kernels")
    lines = ['#include "resident.h"']
    for kernel in kernels:
        variant = VARIANTS[kernel]
        template = f"{NUMBERS[kernel]}, {variant.stream_octets}"
        lines.append(
            f'extern "C" int wavernn_{kernel}(const wavernn::ResidentArguments* arguments, int, int blocks, int warps, '
            "int shared_bytes) {\n"
            "    using namespace wavernn;\n"
            "    run_grid(blocks, warps, static_cast<std::size_t>(shared_bytes), [&](const Block& block) {\n"
            f"        resident<{template}>(block, *arguments);\n"
            "    });\n"
            "    return 0;\n"
            "}"
        )
    (sources / "host_resident.cpp").write_text("\n".join(lines) + "\n")
    return sources
