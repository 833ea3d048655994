"""Plans of the resident kernels, made without a GPU: they fit on the device, or are refused."""

from __future__ import annotations

import ctypes
import itertools
import math

import pytest
from kernel_cases import A100, B200, FATCHORD, GPUS, H100, L4, UNIVOC, resident_share, small_shapes

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import arguments
from wavernn_trt.plugins.arguments import COUNTER_BYTES, MATRICES, MOST_GROUPS, PATCH_ROWS
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident import (
    MOST_STREAMS,
    VARIANTS,
    ResidentFamily,
    ResidentPlan,
    lay_out_mail,
    lay_out_resident,
    most_blocks,
    plan_resident,
    resident_arguments,
)
from wavernn_trt.plugins.targets import DeviceProperties

PRECISIONS: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")
SHAPES = small_shapes()


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("kernel", VARIANTS)
@pytest.mark.parametrize("shape", [UNIVOC, FATCHORD], ids=["univoc", "fatchord"])
def test_plans_fit_every_gpu(shape: SequenceShape, kernel: str, gpu: DeviceProperties) -> None:
    variant = VARIANTS[kernel]
    for precision, groups in itertools.product(PRECISIONS, (1, 2, 4)):
        batch = variant.streams * groups
        plan = plan_resident(shape, precision, batch, gpu, kernel, groups=groups)
        assert plan.grid <= gpu.multiprocessors
        assert plan.blocks <= most_blocks(shape)
        assert plan.shared_bytes <= gpu.shared_per_block
        spans = room_beside_weights(plan, shape)
        for name, matrix in plan.matrices.items():
            assert 0 <= matrix.resident <= matrix.sets
            height = PATCH_ROWS * (1 if name.startswith(("fc", "output")) else 3)
            assert matrix.sets * plan.blocks * height >= matrix.rows
            spans.append((matrix.shared_offset, matrix.shared_offset + matrix.resident * matrix.set_bytes))
        assert all(start % 16 == 0 for start, _ in spans)
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert spans[-1][1] <= plan.shared_bytes


def room_beside_weights(plan: ResidentPlan, shape: SequenceShape, warps: int = 8) -> list[tuple[int, int]]:
    """Shared memory beside the weights, counted as in the kernels' structures and templates."""
    octets = VARIANTS[plan.kernel].stream_octets
    turns = 2 if octets == 1 else 1
    waiting = math.ceil(math.ceil(shape.hidden_size / 8) / plan.blocks)
    sizes = {
        plan.shared_sampler: warps * (8 + 4) + 4,
        plan.shared_logits: 4 * shape.outputs,
        plan.shared_meeting: turns * warps * 3 * octets * 64 * 4,
        plan.shared_gates: shape.layers * waiting * octets * 64 * 8 * 4,  # eight floats each
    }
    return [(start, start + size) for start, size in sizes.items()]


@pytest.mark.parametrize(("gpu", "precision"), [(A100, "fp8"), (H100, "fp16"), (B200, "bf16")])
def test_all_weights_of_univoc_stay_on_chip_with_few_streams(gpu: DeviceProperties, precision: WeightPrecision) -> None:
    plan = plan_resident(UNIVOC, precision, 1, gpu, "resident_stamped_8")
    assert resident_share(plan) == 1.0
    assert plan.grid == min(gpu.multiprocessors, most_blocks(UNIVOC))


@pytest.mark.parametrize(("gpu", "groups"), [(L4, 1), (H100, 4)])
def test_eight_bits_keep_more_of_the_weights_on_chip(gpu: DeviceProperties, groups: int) -> None:
    """Of one copy on a small GPU, and of four on a large one."""
    sixteen, eight = (
        resident_share(plan_resident(UNIVOC, precision, groups, gpu, "resident_stamped_8", groups=groups))
        for precision in ("fp16", "fp8")
    )
    assert 0 < sixteen < eight <= 1


def test_a_small_model_takes_no_more_blocks_than_have_work() -> None:
    plan = plan_resident(SHAPES["gaussian"], "fp16", 1, H100, "resident_stamped_8")
    assert plan.grid == most_blocks(SHAPES["gaussian"]) == 2  # ten rows of the first fully connected layer
    with pytest.raises(ValueError, match="groups and 1 to 2 blocks"):
        plan_resident(SHAPES["gaussian"], "fp16", 1, H100, "resident_stamped_8", blocks=3)


def test_invalid_launches_are_refused_with_the_way_out() -> None:
    with pytest.raises(KernelError, match=r"resident_stamped_8 takes 8 streams a group, found 10: use 4 groups, or"):
        plan_resident(UNIVOC, "fp16", 30, H100, "resident_stamped_8", groups=3)
    plan_resident(UNIVOC, "fp16", 30, H100, "resident_stamped_8", groups=4)
    with pytest.raises(KernelError, match="takes a batch of up to 256, found 257: use the kernel stepped"):
        plan_resident(UNIVOC, "fp16", 257, H100, "resident_stamped_16", groups=32)
    small = DeviceProperties("small", 89, 4, 20_000)
    with pytest.raises(KernelError, match=r"needs \d+ bytes .* a block of small \(sm_89\) has 20000: use fewer groups"):
        plan_resident(UNIVOC, "fp16", 1, small, "resident_stamped_8")
    with pytest.raises(ValueError, match="found 'fp32', expected 'fp16', 'bf16' or 'fp8'"):
        plan_resident(UNIVOC, "fp32", 1, H100, "resident_stamped_8")
    for batch, groups, blocks in ((0, 1, None), (1, 0, None), (1, MOST_GROUPS + 1, None), (1, 133, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="expected a batch of at least 1"):
            plan_resident(UNIVOC, "fp16", batch, H100, "resident_stamped_16", groups=groups, blocks=blocks)


@pytest.mark.parametrize("batch", [1, 5, 4096])
@pytest.mark.parametrize("shape", [*SHAPES.values(), UNIVOC, FATCHORD])
def test_each_kind_of_words_has_room_for_two_steps(shape: SequenceShape, batch: int) -> None:
    """And begins where four stamped words can be read at once, as does its second half."""
    mail = lay_out_mail(shape, batch)
    words = {start: 32 * -(-shape.hidden_size // 32) // 2 for start in (*mail.states, *mail.features)}
    words |= {start: 32 * -(-size // 32) // 2 for start, size in zip(mail.activations, shape.fc_sizes, strict=True)}
    assert all(count % 4 == 0 for count in words.values())
    words |= {mail.logits: shape.outputs, mail.previous: 1}
    assert len(words) == shape.layers * (1 + shape.skip) + len(shape.fc_sizes) + 2
    spans = sorted((start, start + 2 * batch * count) for start, count in words.items())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise([*spans, (mail.words, 0)]))
    assert all(start % 4 == 0 for start, _ in spans)


def test_a_launch_clears_the_stamps_of_the_previous_one() -> None:
    layout = lay_out_resident(FATCHORD, 7)
    end = layout.mail + lay_out_mail(FATCHORD, 7).words * 8
    assert layout.mail == MOST_GROUPS * COUNTER_BYTES
    assert layout.cleared == end
    assert end <= layout.skipped
    assert layout.total == layout.skipped + 7 * 512 * 4


def test_the_workspace_is_empty_for_batches_beyond_the_kernels() -> None:
    family = ResidentFamily()
    assert family.workspace_bytes(UNIVOC, "fp16", MOST_STREAMS) == lay_out_resident(UNIVOC, MOST_STREAMS).total
    assert family.workspace_bytes(UNIVOC, "fp16", MOST_STREAMS + 1) == 0


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_addresses_are_in_the_fields_of_their_names(precision: WeightPrecision) -> None:
    shape = SHAPES["two layers, skip, values"]
    names = [operand.name for operand in (*shape.inputs(), *shape.outputs_of_node())]
    scaled = list(MATRICES) if precision == "fp8" else []
    addresses = {name: 16 * (1000 + i) for i, name in enumerate([*names, *(f"scale of {name}" for name in scaled)])}
    plan = plan_resident(shape, precision, 3, H100, "resident_stamped_8")
    made = resident_arguments(shape, precision, plan, (3, 6, 4), list(addresses.values()), 1 << 20)
    seen = {name: getattr(made.s, name) for name, kind, *_ in made.s._fields_ if kind is ctypes.c_void_p}
    for i, (name, bias) in enumerate(zip(arguments.MATRICES, arguments.BIASES, strict=True)):
        seen[name] = made.s.matrices[i].weight
        seen[f"scale of {name}"] = made.scales[i]
        if bias is not None:
            seen[bias] = made.s.matrices[i].bias
    assert {name: seen[name] for name in addresses} == addresses
    assert all(made.scales[i] is None for i in range(len(MATRICES))) == (precision == "fp16")
    with pytest.raises(ValueError, match=r"found \d+ addresses"):
        resident_arguments(shape, precision, plan, (3, 6, 4), list(addresses.values())[:-1], 1 << 20)
