"""Kernels compile for every target without spills, once, into a cache that detects damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wavernn_trt.plugins.arguments import THREADS
from wavernn_trt.plugins.compile import WEIGHTS, CompiledKernels, KernelCache, KernelFile
from wavernn_trt.plugins.compilers import Compiled, Nvcc, Nvrtc
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident import VARIANTS
from wavernn_trt.plugins.sequence import TILES
from wavernn_trt.plugins.stepped import kernel_names
from wavernn_trt.plugins.targets import TARGETS
from wavernn_trt.scripts.gpu.resources import resource_report

OF_TILES: tuple[KernelFile, ...] = ("gru_cell", "sequence")
KERNELS: dict[KernelFile, tuple[str, ...]] = {
    **{file: tuple(f"{file}_{tile}" for tile in TILES) for file in OF_TILES},
    "resident": tuple(VARIANTS),
    "stepped": tuple(kernel_names()),
}
"""Kernels of each file."""
SOME_TARGETS = (90, 80, 120)
REGISTERS_PER_MULTIPROCESSOR, REGISTERS_PER_THREAD = 65536, 255
"""32-bit registers; the same on every target."""


def entries(file: KernelFile) -> list[tuple[WeightPrecision, int]]:
    """Combinations that are compiled here: every type of weights once, each for another target.

    With ``WAVERNN_TRT_ALL_TARGETS`` in the environment also all other targets, types of weights in turn.
    """
    others = [target for target in TARGETS if target not in SOME_TARGETS]
    targets = (*SOME_TARGETS, *(others if "WAVERNN_TRT_ALL_TARGETS" in os.environ else ()))
    return [(WEIGHTS[file][i % len(WEIGHTS[file])], target) for i, target in enumerate(targets)]


@pytest.fixture(scope="module")
def compiled(compiled_kernels: KernelCache) -> list[CompiledKernels]:
    """Kernels of every file; some two minutes on two cores where all targets are asked for."""
    cache = compiled_kernels
    wanted = [(file, precision, target) for file in KERNELS for precision, target in entries(file)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda one: cache.get(*one), wanted))


@pytest.mark.slow
def test_every_kernel_compiles_for_every_target_without_spills(compiled: list[CompiledKernels]) -> None:
    report = resource_report(compiled)
    found = {(one.kernel, one.precision, one.target) for one in report}
    assert found == {
        (kernel, precision, target)
        for file, kernels in KERNELS.items()
        for precision, target in entries(file)
        for kernel in kernels
    }
    for one in report:
        assert (one.spill_stores, one.spill_loads, one.stack_bytes) == (0, 0, 0), one
        assert one.registers <= REGISTERS_PER_THREAD
        assert one.registers * THREADS <= REGISTERS_PER_MULTIPROCESSOR
        assert one.shared_bytes == 0  # all of it is a plan's


@pytest.mark.nightly
def test_the_trace_build_needs_no_spills_either(nvcc: Nvcc, tmp_path: Path) -> None:
    files: tuple[KernelFile, ...] = ("resident", "stepped")
    traced = KernelCache(tmp_path, nvcc, ("WAVERNN_TRACE=1",)).get_all(files, ("fp16",), (90,))
    for one in resource_report(traced):
        assert (one.spill_stores, one.spill_loads, one.shared_bytes) == (0, 0, 0), one
    assert all(b"wavernn_trace" in one.cubin for one in traced)


@pytest.mark.slow
def test_cubins_are_elf_files_for_a_gpu(compiled: list[CompiledKernels]) -> None:
    for one in compiled:
        assert one.cubin[:4] == b"\x7fELF"
        assert int.from_bytes(one.cubin[18:20], "little") == 190  # EM_CUDA


@pytest.mark.slow
def test_the_second_time_is_a_cache_hit(nvcc: Nvcc, tmp_path: Path) -> None:
    first = KernelCache(tmp_path, nvcc).get("gru_cell", "fp16", 80)
    again = KernelCache(tmp_path, nvcc).get("gru_cell", "fp16", 80)
    assert (first.compiled, again.compiled) == (True, False)
    assert (first.cubin, first.log) == (again.cubin, again.log)
    assert {path.suffix for path in tmp_path.iterdir()} == {".cubin", ".json", ".lock"}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "undescribed", "foreign"])
def test_a_damaged_entry_is_compiled_again(tmp_path: Path, damage: str) -> None:
    compiler = CountingCompiler()
    cache = KernelCache(tmp_path, compiler)
    whole = cache.get("gru_cell", "fp32", 90).cubin
    (cubin,) = tmp_path.glob("*.cubin")
    description = cubin.with_suffix(".json")
    if damage == "flipped":
        cubin.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    elif damage == "truncated":
        cubin.write_bytes(whole[:-1])
    elif damage == "undescribed":
        description.write_text("{")
    else:
        description.write_text(json.dumps({**json.loads(description.read_text()), "key": "another"}))
    again = cache.get("gru_cell", "fp32", 90)
    assert again.compiled
    assert again.cubin == whole
    assert not cache.get("gru_cell", "fp32", 90).compiled
    assert compiler.calls == 2


def test_another_compiler_precision_or_target_is_another_entry(tmp_path: Path) -> None:
    old, new = CountingCompiler("1.0"), CountingCompiler("1.1")
    for compiler, precision, target in ((old, "fp16", 80), (new, "fp16", 80), (old, "bf16", 80), (old, "fp16", 90)):
        assert KernelCache(tmp_path, compiler).get("gru_cell", precision, target).compiled  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.cubin"))) == 4


@pytest.mark.slow
def test_two_processes_at_once_compile_once(nvcc: Nvcc, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from wavernn_trt.plugins.compile import KernelCache\n"
        "print(KernelCache(Path(sys.argv[1])).get('gru_cell', 'bf16', 86).compiled)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    compiled = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert compiled == ["False", "True"]


@pytest.mark.slow
def test_nvrtc_compiles_the_same_sources(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="NVRTC is called through cuda-bindings")
    try:
        compiler = Nvrtc()
    except KernelError as error:
        pytest.skip(str(error))
    cache = KernelCache(tmp_path, compiler)
    for one in resource_report(cache.get_all(precisions=("fp16",), targets=(80,))):
        assert (one.spill_stores, one.spill_loads) == (0, 0)


def test_an_error_of_the_compiler_contains_its_messages(nvcc: Nvcc, tmp_path: Path) -> None:
    source = tmp_path / "broken.cu"
    source.write_text('extern "C" __global__ void broken() { nothing_of_that_name(); }\n')
    with pytest.raises(KernelError, match=r"does not compile(.|\n)*nothing_of_that_name"):
        nvcc.compile(source, (), 80)
    with pytest.raises(KernelError, match=r"install a CUDA toolkit that supports it"):
        nvcc.compile(source, (), 20)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(KernelError, match=f"{file} cannot be written .*name another folder"):
        KernelCache(file, CountingCompiler()).get("gru_cell", "fp32", 80)


def test_without_a_compiler_the_error_has_the_way_out(tmp_path: Path) -> None:
    if shutil.which("nvcc", path="/usr/bin:/bin"):
        pytest.skip("nvcc is a system command here")
    code = (
        "import sys; from pathlib import Path\n"
        "from wavernn_trt.plugins import compilers\n"
        "compilers._TOOLKIT = Path('/nowhere')\n"
        "sys.modules['cuda.bindings.nvrtc'] = None\n"
        "print(compilers.find_compiler())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert "KernelError: no CUDA compiler" in done.stderr
    assert "pip install cuda-bindings nvidia-cuda-nvrtc" in done.stderr


def test_only_supported_combinations_are_compiled(tmp_path: Path) -> None:
    """Kernels for tensor cores have no fp32 and need sm_80; the others have no fp8."""
    every = KernelCache(tmp_path, CountingCompiler()).get_all(targets=(75, 80))
    found = {(one.file, one.precision, one.target) for one in every}
    assert {(precision, target) for file, precision, target in found if file == "resident"} == {
        ("fp16", 80),
        ("bf16", 80),
        ("fp8", 80),
    }
    assert {(precision, target) for file, precision, target in found if file == "sequence"} == {
        (precision, target) for precision in ("fp32", "fp16", "bf16") for target in (75, 80)
    }


class CountingCompiler:
    """Returns bytes that contain the request; the cache does not read them."""

    kind = "counting"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.calls = 0

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        self.calls += 1
        return Compiled(f"{source.name} {defines} {target}".encode(), "")
