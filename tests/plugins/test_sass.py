"""Machine code of the loops that determine the speed of the kernels.

nvdisasm is found on PATH, beside nvcc, or where the wheel nvidia-cuda-nvdisasm puts it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from wavernn_trt.plugins.compile import KernelCache, KernelFile
from wavernn_trt.plugins.compilers import Nvcc
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident import VARIANTS
from wavernn_trt.plugins.stepped import kernel_names

pytestmark = pytest.mark.slow  # nvcc compiles

TARGETS = (pytest.param(80, marks=pytest.mark.nightly), 90)
SWEEP = 8
"""Loads of sixteen bytes in a sweep over a product's operands."""
_FUNCTION = re.compile(r"\.text\.(\w+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)")
_BETWEEN_LOADS = ("BRA", "BSSY", "BSYNC", "WARPSYNC", "BAR", "ISETP", "EXIT", "CALL")
"""A branch, a barrier or a comparison ends a run of loads: what was loaded may be waited for there."""

Disassemble = Callable[..., Mapping[str, list[str]]]


@pytest.fixture(scope="module")
def disassemble(compiled_kernels: KernelCache, nvcc: Nvcc, tmp_path_factory: pytest.TempPathFactory) -> Disassemble:
    """A function file, precision, target, switches -> opcodes of each kernel, with a blank where a jump may end."""
    places = [*Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"), Path("/usr/local/cuda/bin")]
    found = shutil.which("nvdisasm") or next((p for one in places if (p := shutil.which("nvdisasm", path=one))), None)
    if found is None:
        pytest.skip("nvdisasm is not on PATH and not beside nvcc: pip install nvidia-cuda-nvdisasm")
    cubin = tmp_path_factory.mktemp("sass") / "kernels.cubin"

    def run(
        file: KernelFile, precision: WeightPrecision = "fp16", target: int = 90, switches: tuple[str, ...] = ()
    ) -> Mapping[str, list[str]]:
        cubin.write_bytes(KernelCache(compiled_kernels.folder, nvcc, switches).get(file, precision, target).cubin)
        done = subprocess.run([found, "-c", str(cubin)], capture_output=True, text=True, check=True)
        kernels: dict[str, list[str]] = {}
        opcodes: list[str] = []
        for line in done.stdout.splitlines():
            if (function := _FUNCTION.match(line)) is not None:
                opcodes = kernels.setdefault(function[1], [])
            elif line.startswith(".L_"):
                opcodes.append("")
            elif (instruction := _INSTRUCTION.search(line)) is not None:
                opcodes.append(instruction[1])
        return kernels

    return run


def runs_of_loads(opcodes: list[str]) -> Iterator[int]:
    """How many stamped words are loaded, sixteen bytes at a time, before anything may wait for one."""
    run = 0
    for opcode in [*opcodes, ""]:
        if opcode.startswith("LDG") and "128" in opcode and "STRONG.GPU" in opcode:
            run += 1
        elif run and (not opcode or opcode.startswith(_BETWEEN_LOADS)):
            yield run
            run = 0


@pytest.mark.parametrize("target", TARGETS)
def test_all_loads_of_a_sweep_are_issued_before_the_first_is_used(disassemble: Disassemble, target: int) -> None:
    """In each of the products: of both layers' states, of layer 1's input, and of rows. Logits are two loads."""
    kernels = disassemble("resident", target=target)
    assert set(kernels) == set(VARIANTS)
    for name, opcodes in kernels.items():
        found = list(runs_of_loads(opcodes))
        sweeps = [run for run in found if run == SWEEP]
        assert len(sweeps) >= 3, (name, found)
        assert sum(found) - sum(sweeps) <= 8, (name, found)


def test_without_the_switch_patches_are_loaded_one_after_another(disassemble: Disassemble) -> None:
    """The comparison of both is made on a GPU."""
    for opcodes in disassemble("resident", switches=("WAVERNN_POLLS_IN_FLIGHT=0",)).values():
        assert set(runs_of_loads(opcodes)) == {2}


def instructions_between(opcodes: list[str], name: str, between: str) -> Iterator[tuple[int, int]]:
    """Of each stretch of code without a jump into it that has an instruction: how many, and how many of another."""
    for stretch in " ".join(opcode or "|" for opcode in opcodes).split("|"):
        found = stretch.split()
        places = [i for i, opcode in enumerate(found) if opcode.startswith(name)]
        if places:
            inside = found[places[0] : places[-1]]
            yield len(places), sum(opcode.startswith((between, f"IMAD.{between}")) for opcode in inside)


@pytest.mark.parametrize("target", TARGETS)
def test_no_register_is_moved_between_products(disassemble: Disassemble, target: int) -> None:
    """A tensor core's instruction finds its four registers of weights side by side, as they were loaded."""
    kernels = disassemble("stepped", target=target)
    products = {name: list(instructions_between(ops, "HMMA", "MOV")) for name, ops in kernels.items()}
    assert {name for name, found in products.items() if found} == set(kernel_names()) - {
        "stepped_begin",
        "stepped_draw",
    }
    for name, found in products.items():
        assert all(moves == 0 for _, moves in found), (name, found)
    assert products["stepped_units_0_128"] == [(48, 0)]
    assert products["stepped_rows_256x128"] == [(64, 0)]


def test_in_the_order_of_rows_registers_are_moved(disassemble: Disassemble) -> None:
    """The comparison of both is made on a GPU; and the count of moves above is shown to work."""
    kernels = disassemble("stepped", switches=("WAVERNN_FRAGMENT_ORDER=0",))
    ((_, moves),) = instructions_between(kernels["stepped_units_0_128"], "HMMA", "MOV")
    assert moves > 48


@pytest.mark.parametrize(("precision", "target"), [("fp16", 90), ("fp8", 120)])
def test_products_are_matrix_instructions_fed_by_copies_of_sixteen_bytes(
    disassemble: Disassemble, precision: WeightPrecision, target: int
) -> None:
    kernels = disassemble("stepped", precision, target)
    multiplying = set(kernel_names()) - {"stepped_begin", "stepped_draw"}
    for name in multiplying:
        opcodes = kernels[name]
        assert {one for one in opcodes if "MMA" in one} == {"HMMA.16816.F32"}, name
        copies = [one for one in opcodes if one.startswith("LDGSTS")]
        assert len(copies) >= 2, name
        assert all("128" in one for one in copies), (name, copies)
        assert any(one.startswith("LDS.128") for one in opcodes), name
