"""Plans, workspaces and launches of the stepped kernels."""

from __future__ import annotations

import dataclasses

import pytest
from kernel_cases import FATCHORD, H100, UNIVOC, SequenceCase, small_shapes

from wavernn_trt.export.operators import Operand
from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stepped import (
    SLOTS,
    UNIT_TILES,
    Launch,
    fragment_numbers,
    kernel_names,
    lay_out_stepped,
    plan_stepped,
    stepped_launches,
)
from wavernn_trt.plugins.targets import TARGETS, DeviceProperties


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_tile_fits_every_target(target: int, precision: WeightPrecision) -> None:
    device = DeviceProperties.of("any", target, 108)
    for streams in UNIT_TILES:
        for batch in (1, 300, 4096):
            for stage in plan_stepped(FATCHORD, precision, batch, device, streams=streams).stages:
                assert stage.shared_bytes <= device.shared_per_block
                assert stage.kernel in set(kernel_names())


def test_few_streams_are_cut_into_small_tiles_and_many_into_large_ones() -> None:
    def kernels(batch: int) -> list[str]:
        return [stage.kernel for stage in plan_stepped(UNIVOC, "bf16", batch, H100).stages]

    assert kernels(256) == ["stepped_units_0_32", "stepped_rows_64x32", "stepped_rows_64x32", "stepped_draw"]
    assert kernels(4096) == ["stepped_units_0_128", "stepped_rows_256x128", "stepped_rows_256x128", "stepped_draw"]


def test_a_grid_covers_all_units_rows_and_streams() -> None:
    shape = small_shapes(65, fc_size=129, classes=257)["two layers, skip, values"]
    stages = plan_stepped(shape, "fp16", 129, H100, streams=128).stages
    for stage, rows in zip(stages, (65, 65, 129, 128, 257, None), strict=True):
        if rows is None:
            assert (stage.kernel, stage.grid) == ("stepped_draw", 17)
            continue
        assert stage.tile is not None
        across = stage.tile.rows // 3 if stage.tile.gates else stage.tile.rows
        assert stage.grid == -(-rows // across) * 2


def test_the_largest_tile_is_of_64_units_and_128_streams() -> None:
    tile = plan_stepped(UNIVOC, "bf16", 4096, H100).stages[0].tile
    assert tile is not None
    assert (tile.rows, tile.streams) == (192, 128)
    assert tile.shared_bytes("bf16") == SLOTS * 32 * 2 * (192 + 128)


def test_invalid_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'fp32'"):
        plan_stepped(UNIVOC, "fp32", 8, H100)
    with pytest.raises(ValueError, match="found 48, expected one of 32, 64, 128"):
        plan_stepped(UNIVOC, "fp16", 8, H100, streams=48)
    for batch in (0, 1 << 22):
        with pytest.raises(ValueError, match=f"found batch {batch}"):
            plan_stepped(UNIVOC, "fp16", batch, H100)
    with pytest.raises(KernelError, match=r"need 57344 bytes of shared memory, .* small \(sm_90\) has 49152"):
        plan_stepped(UNIVOC, "fp16", 8, dataclasses.replace(H100, name="small", shared_per_block=49152))


def test_buffers_of_a_workspace_do_not_overlap() -> None:
    layout = lay_out_stepped(FATCHORD, 100)
    row = 100 * 512
    fragments = list(layout.fragments.items())
    assert len(fragments) == 6
    sizes = [
        (layout.next_step, 4),
        (layout.step, 4),
        *((offset, 4 * row) for offset in layout.states),
        *((offset, 2 * row) for offset in layout.features),
        (layout.skipped, 4 * row),
        *((offset, 2 * row) for offset in layout.activations),
        (layout.logits, 4 * row),
        *((offset, 2 * (512 if name.startswith(("fc", "output")) else 3 * 512) * 512) for name, offset in fragments),
    ]
    assert len(layout.states) == len(layout.features) == len(layout.activations) == 2
    for (start, size), (following, _) in zip(sizes, [*sizes[1:], (layout.total, 0)], strict=True):
        assert start % 256 == 0
        assert start + size <= following


def test_each_gate_begins_with_a_fragment_of_its_own() -> None:
    assert fragment_numbers(Operand("recurrent_weight_0", (3 * 17, 33), "weight")) == 3 * 32 * 64
    assert fragment_numbers(Operand("fc_weight_0", (3 * 17, 33), "weight")) == 64 * 64


def test_steps_reuse_the_launch_objects() -> None:
    launches = launches_of(6)
    plan = plan_stepped(FATCHORD, "fp16", 100, H100)
    assert len(launches) == plan.launches(6)
    begin, *steps = launches
    assert begin.stage.kernel == "stepped_begin"
    stages = len(plan.stages)
    for i, launch in enumerate(steps[2 * stages :]):
        assert launch is steps[i % (2 * stages)]


def test_states_of_neighbouring_steps_use_alternating_buffers() -> None:
    _, *launches = launches_of(2)
    even, odd = (launches[start : start + len(launches) // 2] for start in (0, len(launches) // 2))
    for one, other in zip(even[:2], odd[:2], strict=True):
        layer = even.index(one)
        assert one.arguments.results == other.arguments.operands[layer]
        assert other.arguments.results == one.arguments.operands[layer]
    for launch in (*even, *odd):
        s = launch.arguments.s
        half = 100 * 512 * 2
        assert {s.states[0], s.states[1]} == {even[0].arguments.results, even[1].arguments.results}
        assert odd[0].arguments.results == s.states[0] + half
    names = [MATRICES[launch.arguments.matrices[0]] for launch in even[:-1]]
    assert names == ["recurrent_weight_0", "input_weight_1", "fc_weight_0", "fc_weight_1", "output_weight"]
    # Each stage reads what the one before it gives to it.
    first, second, third, fourth, last, _ = (launch.arguments for launch in even)
    assert second.operands[0] == first.features == first.s.features[0]
    assert third.operands[0] == second.features == first.s.features[1]
    assert fourth.operands[0] == third.results
    assert last.operands[0] == fourth.results


def launches_of(steps: int) -> list[Launch]:
    """Of a chunk at made-up addresses."""
    case = SequenceCase(FATCHORD, "fp16", 100, steps)
    operands = len(case.shape.inputs()) + len(case.shape.outputs_of_node())
    pointers = [4096 * (1 + i) for i in range(operands)]
    plan = plan_stepped(case.shape, "fp16", 100, H100)
    return list(stepped_launches(case.shape, "fp16", plan, (100, steps, 4), pointers, 1 << 30))
