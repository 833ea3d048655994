"""Launches of the sequence kernel are planned without a GPU; structures are laid out as in the kernels."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from host_kernels import SOURCES
from kernel_cases import A100, B200, FATCHORD, GPUS, H100, L4, UNIVOC, resident_share, small_shapes

from wavernn_trt.export.operators import PRECISIONS, Operand, Precision, SequenceShape
from wavernn_trt.plugins import arguments, driver
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.gru_cell import GruCellKernel
from wavernn_trt.plugins.kernel_family import require_resident
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.sequence import lay_out_sequence, plan_sequence, sequence_arguments
from wavernn_trt.plugins.targets import SHARED_MEMORY, TARGETS, DeviceProperties

SHAPES = small_shapes()


@pytest.mark.parametrize(
    "structure",
    ["GruArguments", "SequenceArguments", "Matrix", "ColumnGroup", "Place", "ResidentArguments", "SteppedArguments"],
)
def test_structures_have_the_layout_of_the_kernels(tmp_path: Path, structure: str) -> None:
    """Sizes and offsets of every field, as g++ sees them."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH; it prints the layout of structures")
    mirrored = getattr(arguments, structure)
    names = [name for name, *_ in mirrored._fields_]
    lines = "".join(f'std::printf("%zu\\n", offsetof(wavernn::{structure}, {name}));\n' for name in names)
    (tmp_path / "layout.cpp").write_text(
        '#include <cstddef>\n#include <cstdio>\n#include "gru_arguments.h"\n#include "resident_arguments.h"\n'
        '#include "stepped_arguments.h"\n'
        f'int main() {{ {lines} std::printf("%zu\\n", sizeof(wavernn::{structure})); }}\n'
    )
    program = tmp_path / "layout"
    subprocess.run(["g++", f"-I{SOURCES}", str(tmp_path / "layout.cpp"), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    offsets = [getattr(mirrored, name).offset for name in names]
    assert [int(number) for number in printed] == [*offsets, ctypes.sizeof(mirrored)]


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [UNIVOC, FATCHORD], ids=["univoc", "fatchord"])
def test_plans_fit_every_gpu(shape: SequenceShape, precision: Precision, gpu: DeviceProperties) -> None:
    for batch in (1, 2, 8, 64, 4096):
        plan = plan_sequence(shape, precision, batch, gpu)
        assert plan.grid <= gpu.multiprocessors
        assert plan.shared_bytes <= gpu.shared_per_block
        spans = [(plan.shared_sampler, plan.shared_operands)]
        for matrix in plan.matrices.values():
            assert 0 <= matrix.resident <= matrix.sets
            assert matrix.sets * plan.blocks * matrix.set_rows >= matrix.rows
            assert matrix.shared_offset % 16 == 0
            spans.append((matrix.shared_offset, matrix.shared_offset + matrix.resident * matrix.set_bytes))
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("gpu", [A100, H100, B200], ids=lambda gpu: gpu.name)
def test_all_weights_of_univoc_stay_on_chip_in_half_precision(gpu: DeviceProperties) -> None:
    for batch in (1, 8):
        assert resident_share(plan_sequence(UNIVOC, "fp16", batch, gpu)) == 1


def test_weights_that_do_not_fit_stay_in_global_memory() -> None:
    plan = plan_sequence(UNIVOC, "fp32", 1, L4)
    assert 0 < resident_share(plan) < 0.5
    assert plan.matrices["recurrent_weight_0"].resident > 0


def test_tiles_follow_the_batch() -> None:
    tiles = {batch: plan_sequence(UNIVOC, "fp16", batch, H100).tile for batch in (1, 2, 4, 5, 8, 100)}
    assert tiles == {1: 1, 2: 4, 4: 4, 5: 8, 8: 8, 100: 8}
    assert plan_sequence(UNIVOC, "fp16", 8, H100, groups=2).tile == 4


def test_a_small_model_takes_no_more_blocks_than_it_has_rows() -> None:
    assert plan_sequence(SHAPES["gaussian"], "fp16", 1, H100).grid < 132


def test_a_model_that_no_block_holds_is_refused() -> None:
    columns = 3 * 60_000
    huge = SequenceShape(60_000, 1, (16,), 16, "categorical", True, False, (columns,), (True,), ((0,), ()))
    with pytest.raises(KernelError, match=r"240000 bytes of shared memory in fp32.*L4.*--form cell"):
        plan_sequence(huge, "fp32", 1, L4)
    with pytest.raises(ValueError, match="a batch of at least 1"):
        plan_sequence(UNIVOC, "fp32", 0, L4)


def test_a_grid_that_cannot_be_resident_is_refused() -> None:
    plan = plan_sequence(UNIVOC, "fp16", 8, H100)
    require_resident(plan.grid, plan.shared_bytes, H100, 1)
    with pytest.raises(KernelError, match=r"132 blocks of \d+ bytes .* at once, and H100 \(sm_90\) holds 0 of them"):
        require_resident(plan.grid, plan.shared_bytes, H100, 0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES)
def test_buffers_of_the_workspace_do_not_overlap(model: str, precision: Precision) -> None:
    shape = SHAPES[model]
    layout = lay_out_sequence(shape, precision, 5)
    starts = [0, *layout.states, *layout.features, *layout.activations, layout.logits]
    starts += [layout.skipped] if shape.skip else []
    assert len(set(starts)) == len(starts)
    assert all(start % 256 == 0 for start in starts)
    assert layout.total >= layout.logits + 5 * shape.outputs * 4
    kernel = SequenceKernel(shape, precision)
    assert kernel.workspace_bytes(5, 1, 1) == kernel.workspace_bytes(5, 1024, 9) >= layout.total


def test_addresses_are_in_the_fields_of_their_names() -> None:
    shape = SHAPES["two layers, skip, values"]
    operands: list[Operand] = [*shape.inputs(), *shape.outputs_of_node()]
    addresses = {operand.name: 16 * (1000 + i) for i, operand in enumerate(operands)}
    plan = plan_sequence(shape, "fp16", 3, H100)
    made = sequence_arguments(shape, "fp16", plan, (3, 6, 4), list(addresses.values()), 1 << 20)
    seen = {name: getattr(made, name) for name, kind, *_ in made._fields_ if kind is ctypes.c_void_p}
    for i, (name, bias) in enumerate(zip(arguments.MATRICES, arguments.BIASES, strict=True)):
        seen[name] = made.matrices[i].weight
        if bias is not None:
            seen[bias] = made.matrices[i].bias
    assert {name: seen[name] for name in addresses} == addresses
    with pytest.raises(ValueError, match=r"found 3 addresses and sizes \(3, 6, 4\), expected 25 \(conditioning"):
        sequence_arguments(shape, "fp16", plan, (3, 6, 4), [1, 2, 3], 0)
    with pytest.raises(ValueError, match="a workspace at 0x100008, expected a multiple of 16"):
        sequence_arguments(shape, "fp16", plan, (3, 6, 4), list(addresses.values()), (1 << 20) + 8)
    shifted = [address + 8 * (name == "fc_weight_1") for name, address in addresses.items()]
    with pytest.raises(ValueError, match=r"found fc_weight_1 at 0x\w+8, expected a multiple of 16: its rows are read"):
        sequence_arguments(shape, "fp16", plan, (3, 6, 4), shifted, 1 << 20)


def test_shared_memory_is_known_for_every_target() -> None:
    assert set(TARGETS) <= set(SHARED_MEMORY)


def test_without_a_driver_a_launch_is_an_error() -> None:
    pytest.importorskip("cuda.bindings", reason="the driver is called through cuda-bindings")
    if has_driver():
        pytest.skip("there is a driver here")
    with pytest.raises(KernelError, match=r"need an NVIDIA driver, and none is installed.*onnxruntime"):
        GruCellKernel(896, "fp16").launch(1, [1, 2, 3, 4, 5], 0)
    with pytest.raises(KernelError, match="need an NVIDIA driver"):
        SequenceKernel(UNIVOC, "fp16").prepare(1)


def has_driver() -> bool:
    try:
        driver.call("cuDriverGetVersion")
    except KernelError:
        return False
    return True
