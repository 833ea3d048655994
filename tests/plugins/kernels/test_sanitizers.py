"""The kernels, built for this machine with real threads, have no data race and no invalid access.

Rules that are broken on purpose are found. Stamped words are atomic and order nothing else, as on a GPU: what blocks
pass to each other has to be in them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from host_kernels import HostKernels, Part, Sanitizer, build_host_kernels
from kernel_cases import SequenceCase, small_shapes
from kernel_processes import IMPORTS, copy_sources, replace_once, run, run_sanitized

from wavernn_trt.plugins.resident import VARIANTS

pytestmark = pytest.mark.slow  # each case builds a library of the kernels

PRECISIONS = dict(zip(VARIANTS, ("fp16", "fp8"), strict=True))
"""The one that a small build of a resident kernel has."""
END = '\nprint("all as expected")\n'
EVERYTHING: dict[Part, str] = {
    "sequence": """
for batch, size in ((9, 5), (9, 16), (1, 1027)):
    case = GruCase(batch, size, "fp16")
    assert case.excess(kernels.gru_cell(case, warps=3 if size < 1024 else 32)) <= 1
for name, shape in small_shapes().items():
    for batch, settings in ((1, {"blocks": 3}), (9, {"groups": 2, "warps": 2, "shared_bytes": 3000})):
        case = SequenceCase(shape, "bf16", batch, steps=3)
        inputs = case.inputs()
        assert case.excess(kernels.sequence(case, inputs, **settings), inputs) <= 1, name
case = SequenceCase(small_shapes()["mixture"], "bf16", 5, steps=4)
for absent in range(1, 4):
    found = kernels.sequence(case, case.inputs(), blocks=4, waits=2000, absent=absent)
    assert find_stall(found["samples"]) is not None, absent
""",
    "resident": f"""
from wavernn_trt.plugins.resident import plan_resident
from wavernn_trt.plugins.targets import DeviceProperties

roomy = DeviceProperties("host", 0, 4, 1 << 20)
for kernel, precision in {PRECISIONS}.items():
    for name, shape in small_shapes().items():
        plan = plan_resident(shape, precision, 9, roomy, kernel, groups=2, warps=2)
        half = plan.shared_bytes - sum(one.resident * one.set_bytes for one in plan.matrices.values()) // 2
        ragged = {{"groups": 2, "misalign": True, "shared_bytes": half, "in_place": True}}
        for batch, settings in ((1, {{"blocks": 3}}), (9, ragged)):
            case = SequenceCase(shape, precision, batch, steps=3)
            inputs = case.inputs()
            assert case.excess(kernels.resident(case, inputs, kernel, **settings), inputs) <= 1, (kernel, name)
""",
    "stepped": """
for model, hidden_size, batch, misalign in (
    ("one layer, labels", 130, 3, False), ("mixture", 7, 33, True), ("gaussian", 65, 3, True)
):
    case = SequenceCase(small_shapes(hidden_size)[model], "fp16", batch, steps=2)
    inputs = case.inputs()
    found = kernels.stepped(case, inputs, streams=32, misalign=misalign, in_place=True)
    assert case.excess(found, inputs) <= 1, model
""",
}
STALLED = f"""{IMPORTS}
for kernel, precision in {PRECISIONS}.items():
    for batch in (1, 5):
        case = SequenceCase(small_shapes(hidden_size=33)["two layers, skip, values"], precision, batch, steps=6)
        settings = {{"blocks": 4, "waits": 3000, "absent": 1}}
        assert find_stall(kernels.resident(case, case.inputs(), kernel, **settings)["samples"]) is not None
{END}"""


def resident_runs(kernel: str, batch: int = 8, runs: int = 200) -> str:
    """Returns code that runs a resident kernel many times, as a busy machine may run threads in step for a while."""
    return f"""{IMPORTS}
case = SequenceCase(
    small_shapes(hidden_size=33)["two layers, skip, values"], "{PRECISIONS[kernel]}", batch={batch}, steps=20
)
inputs = case.inputs()
for _ in range({runs}):
    found = kernels.resident(case, inputs, "{kernel}", blocks=5, waits=1 << 17, in_place=True)
    assert case.excess(found, inputs) <= 1, "another result"
{END}"""


SEQUENCE_RUNS = f"""{IMPORTS}
case = SequenceCase(small_shapes()["gaussian"], "bf16", steps=30)
inputs = case.inputs()
for _ in range(500):
    kernels.sequence(case, inputs, blocks=3)
"""
RACES: dict[str, tuple[Part, str, str, str, str]] = {
    "the first layer and what reads its state": (
        *("sequence", SEQUENCE_RUNS, "sequence.h"),
        "gru_stage<0, Streams>(c, step);\n        whole = group.sync(c.block, step);",
        "gru_stage<0, Streams>(c, step);",
    ),
    "turns in the meeting place": (
        *("resident", resident_runs("resident_stamped_8"), "patch_product.h"),
        *("turn_ ^= 1;", "turn_ ^= 0;"),
    ),
    "the last step and the outputs": (
        *("resident", resident_runs("resident_stamped_8"), "resident.h"),
        *("group.sync(block, a.steps);  // previous and", "block.sync();  // previous and"),
    ),
    "the copies of all warps and their products": (
        *("stepped", IMPORTS + EVERYTHING["stepped"], "stepped_product.h"),
        *("        block.sync();  // all copies", "        // all copies"),
    ),
}
"""What a barrier separates: kernels, code, file, and the barrier's text with what takes its place."""
FAULTS = {
    "every stamp the same": ("return static_cast<unsigned>(step + 2);", "return static_cast<unsigned>(step * 0 + 2);"),
    "words of neighbouring steps in one place": ("return (step & 1) * words_;", "return (step & 0) * words_;"),
}
"""Changes of mailbox.h."""


@pytest.mark.parametrize(("sanitizer", "library"), [("thread", "libtsan.so"), ("address,undefined", "libasan.so")])
@pytest.mark.parametrize("part", EVERYTHING)
def test_kernels_run_clean(tmp_path: Path, gxx: str, part: Part, sanitizer: Sanitizer, library: str) -> None:
    sources = copy_sources(tmp_path, part)
    done = run_sanitized(tmp_path, gxx, sanitizer, library, IMPORTS + EVERYTHING[part] + END, sources, [part])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "all as expected"


def test_blocks_that_stop_waiting_end_without_a_race(tmp_path: Path, gxx: str) -> None:
    sources = copy_sources(tmp_path, "resident")
    done = run_sanitized(tmp_path, gxx, "thread", "libtsan.so", STALLED, sources, ["resident"])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "all as expected"


@pytest.mark.parametrize("name", RACES)
def test_a_missing_barrier_is_a_reported_race(tmp_path: Path, gxx: str, name: str) -> None:
    part, code, file, old, new = RACES[name]
    sources = copy_sources(tmp_path, part)
    replace_once(sources / file, old, new)
    done = run_sanitized(tmp_path, gxx, "thread", "libtsan.so", code, sources, [part])
    assert done.returncode == 66, done.stdout + done.stderr[-2000:]
    assert "data race" in done.stderr


def test_a_read_of_a_row_after_the_last_one_is_reported(tmp_path: Path, gxx: str) -> None:
    """Though its value is not used."""
    sources = copy_sources(tmp_path, "sequence")
    replace_once(sources / "slices.h", "min(first_row(set) + r, matrix_.rows - 1)", "(first_row(set) + r)")
    code = IMPORTS + EVERYTHING["sequence"]
    done = run_sanitized(tmp_path, gxx, "address,undefined", "libasan.so", code, sources, ["sequence"])
    assert done.returncode != 0, done.stdout
    assert "AddressSanitizer: use-after-poison" in done.stderr


def test_many_runs_of_unchanged_kernels_give_the_same_result(tmp_path: Path, gxx: str) -> None:
    """What the broken ones below are compared with."""
    library = build_host_kernels(
        tmp_path / "kernels.so", parts=["resident"], sources=copy_sources(tmp_path, "resident")
    )
    for kernel in VARIANTS:
        for batch in (1, 8):
            done = run(library, resident_runs(kernel, batch=batch, runs=4))
            assert (done.returncode, done.stdout.strip()) == (0, "all as expected"), done.stderr[-2000:]


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_stamps_change_the_result(tmp_path: Path, gxx: str, name: str) -> None:
    sources = copy_sources(tmp_path, "resident")
    replace_once(sources / "mailbox.h", *FAULTS[name])
    library = build_host_kernels(tmp_path / "kernels.so", parts=["resident"], sources=sources)
    done = run(library, resident_runs("resident_stamped_8"))
    assert done.returncode != 0, done.stdout
    assert "another result" in done.stderr


def test_a_patch_that_is_read_too_early_changes_the_result(tmp_path: Path, gxx: str) -> None:
    sources = copy_sources(tmp_path, "stepped")
    replace_once(sources / "stepped_product.h", "wait_for_copies<C::SLOTS - 2>();", "wait_for_copies<C::SLOTS - 1>();")
    kernels = HostKernels(build_host_kernels(tmp_path / "kernels.so", parts=["stepped"], sources=sources))
    case = SequenceCase(small_shapes(130)["one layer, labels"], "fp16", steps=1)
    inputs = case.inputs()
    assert case.excess(kernels.stepped(case, inputs, streams=32), inputs) > 1
