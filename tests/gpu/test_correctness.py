"""Kernels on a GPU compared with numpy references: first launches, full size, chunk cuts, slots, odd sizes, precisions.

The smallest cases of every kernel come first. In a list of cases all kernels of a case are consecutive, so that the
reference is computed once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from ctypes.util import find_library
from typing import Any

import pytest
from gpu_checks import Checks, HostRunner
from kernel_cases import SINGLE_STEP_EXCESS, GruCase, SequenceCase, small_shapes

from wavernn_trt.export.operators import PRECISIONS as CELL_PRECISIONS
from wavernn_trt.export.operators import Precision, SequenceShape
from wavernn_trt.plugins.choices import family_of
from wavernn_trt.plugins.driver import primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.scripts.gpu.cases import ANY_GPU, CHUNK_STEPS, PRECISIONS, STANDARD, choices_of, kernels_with

Record = Callable[[str, object], None]
FIRST_SIZES: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "one block, one step": ((7, 8, 8), 1, 1),
    "one block, 4 steps": ((7, 8, 8), 1, 4),
    "many blocks": ((130, 77, 257), 1, 4),
    "5 streams": ((130, 77, 257), 5, 4),
}
"""Hidden size, width of the fully connected layers and classes; batch; steps."""
SMALL = (7, 10, 37)
SIZES = ((1, 7, 11), (16, 24, 64), (33, 39, 101), (130, 77, 257))
FEW, MANY = (1, 3, 9), (2, 4, 5, 8, 17, 40)
"""Batches, for all kinds of models and for one."""
SEVERAL = 3
"""Some cases have every third kind of model, another third for each kernel or size."""
STEPS = 12
FULL = ((2, CHUNK_STEPS), (1, 48), (33, 48))
"""Batches and steps of chunks of the published sizes."""
CELL_BATCHES, CELL_SIZES = (1, 2, 3, 5, 8, 9, 70, 256), (1, 7, 16, 33, 130, 896, 1030)
TWO = "two layers, skip, values"


def cases(every: Iterable[tuple[Any, ...]]) -> Callable[[Any], Any]:
    """Parametrises a test with precision, model, further values in a name, and kernel."""
    rows = [pytest.param(*values, id="-".join(str(value) for value in values)) for values in every]
    return pytest.mark.parametrize(("precision", "model", "numbers", "kernel"), rows)


def over_kernels(*middle: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Every precision with every combination of the middle values and each kernel that has the precision."""
    for precision in PRECISIONS:
        for values in itertools.product(*middle):
            for kernel in kernels_with(precision):
                yield (precision, *values, kernel)


def third(shapes: Iterable[str], turn: int) -> list[str]:
    return list(shapes)[turn % SEVERAL :: SEVERAL]


def property_cases() -> Iterator[tuple[Any, ...]]:
    for precision in PRECISIONS:
        for turn, kernel in enumerate(kernels_with(precision)):
            for model in third(small_shapes(), turn):
                yield precision, model, SMALL, kernel


def reference_cases() -> Iterator[tuple[Any, ...]]:
    """All kinds of models in small batches, one kind in many, and a third of the kinds in other sizes."""
    for precision in PRECISIONS:
        models = [(model, (*SMALL, batch)) for model, batch in itertools.product(small_shapes(), FEW)]
        models += [(TWO, (*SMALL, batch)) for batch in MANY]
        for turn, sizes in enumerate(SIZES):
            models += [(model, (*sizes, batch)) for model in third(small_shapes(), turn) for batch in (1, 9)]
        for (model, numbers), kernel in itertools.product(models, kernels_with(precision)):
            yield precision, model, numbers, kernel


def full_cases(sizes: Iterable[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    """fp16 and fp32 in every model of a published size; the other precisions differ from fp16 in the products alone."""
    for precision in PRECISIONS:
        models = list(STANDARD) if precision in ("fp16", "fp32") else list(STANDARD)[:1]
        for model, size, kernel in itertools.product(models, sizes, kernels_with(precision)):
            yield precision, model, size, kernel


def small(model: str, sizes: tuple[int, int, int]) -> SequenceShape:
    return small_shapes(*sizes)[model]


@pytest.mark.gpu
@cases(over_kernels(["one layer, labels"], FIRST_SIZES))
def test_first_launches(
    checks: Checks, precision: WeightPrecision, model: str, numbers: str, kernel: str, record_property: Record
) -> None:
    sizes, batch, steps = FIRST_SIZES[numbers]
    case = SequenceCase(small(model, sizes), precision, batch, steps=steps)
    record_property("excess", checks.chunk(kernel, case))


@pytest.mark.gpu
@cases((p, TWO, "2 steps", k) for p in ("fp16", "fp8", "fp32") for k in kernels_with(p))
def test_small_for_sanitizers(
    checks: Checks, precision: WeightPrecision, model: str, numbers: str, kernel: str, record_property: Record
) -> None:
    record_property("excess", checks.chunk(kernel, SequenceCase(small_shapes()[model], precision, 9, steps=2)))


@pytest.mark.gpu
@pytest.mark.large
@cases(full_cases(FULL[:1]))
def test_cuts_change_no_bit_of_full_chunks(
    checks: Checks, precision: WeightPrecision, model: str, numbers: tuple[int, int], kernel: str
) -> None:
    checks.full_cuts(kernel, STANDARD[model], precision, *numbers)


@pytest.mark.gpu
@pytest.mark.large
@cases(full_cases(FULL))
def test_full_chunks_follow_the_forced_reference(
    checks: Checks,
    precision: WeightPrecision,
    model: str,
    numbers: tuple[int, int],
    kernel: str,
    record_property: Record,
) -> None:
    forced = checks.full(kernel, STANDARD[model], precision, *numbers)
    for name in ("excess", "displaced", "states", "equal"):
        record_property(name, getattr(forced, name))


@pytest.mark.gpu
@cases(property_cases())
def test_cuts_change_no_bit(
    checks: Checks, precision: WeightPrecision, model: str, numbers: tuple[int, int, int], kernel: str
) -> None:
    checks.chunk_cuts(kernel, SequenceCase(small(model, numbers), precision, 3, steps=7))


@pytest.mark.gpu
@cases(property_cases())
def test_no_bit_depends_on_slot_or_batch(
    checks: Checks, precision: WeightPrecision, model: str, numbers: tuple[int, int, int], kernel: str
) -> None:
    checks.chunk_slots(kernel, SequenceCase(small(model, numbers), precision, 11, steps=8))


@pytest.mark.gpu
@cases(case for case in property_cases() if case[0] != "fp32")
def test_one_step_rounds_as_the_reference(
    checks: Checks,
    precision: WeightPrecision,
    model: str,
    numbers: tuple[int, int, int],
    kernel: str,
    record_property: Record,
) -> None:
    case = SequenceCase(small(model, numbers), precision, 9, steps=1)
    record_property("excess", checks.chunk(kernel, case, most=SINGLE_STEP_EXCESS))


@pytest.mark.gpu
@pytest.mark.parametrize("groups", [2, 3])
@cases(
    case
    for case in property_cases()
    if family_of(case[3]).has_groups
    and len(list(choices_of(case[3], small(case[1], case[2]), case[0], 11, ANY_GPU))) > 1
)
def test_groups_of_blocks_divide_the_streams(
    checks: Checks, precision: WeightPrecision, model: str, numbers: tuple[int, int, int], kernel: str, groups: int
) -> None:
    checks.chunk(kernel, SequenceCase(small(model, numbers), precision, 11, steps=8), groups=groups)


@pytest.mark.gpu
@cases(reference_cases())
def test_a_chunk_is_within_tolerance_of_the_reference(
    checks: Checks,
    precision: WeightPrecision,
    model: str,
    numbers: tuple[int, int, int, int],
    kernel: str,
    record_property: Record,
) -> None:
    *sizes, batch = numbers
    case = SequenceCase(small_shapes(*sizes)[model], precision, batch, STEPS)
    record_property("excess", checks.chunk(kernel, case))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", CELL_PRECISIONS)
@pytest.mark.parametrize("cell", list(itertools.product(CELL_BATCHES, CELL_SIZES)), ids=str)
def test_a_cell_is_within_tolerance_of_the_reference(
    checks: Checks, cell: tuple[int, int], precision: Precision, record_property: Record
) -> None:
    record_property("excess", checks.cell(GruCase(*cell, precision)))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", CELL_PRECISIONS)
@pytest.mark.parametrize("cell", [(9, 33)], ids=str)
def test_no_bit_of_a_cell_depends_on_its_slot(checks: Checks, cell: tuple[int, int], precision: Precision) -> None:
    checks.cell_slots(GruCase(*cell, precision))


@pytest.mark.gpu
@cases(property_cases())
def test_a_chunk_is_within_tolerance_of_the_host_build(
    checks: Checks,
    host_runner: HostRunner,
    precision: WeightPrecision,
    model: str,
    numbers: tuple[int, int, int],
    kernel: str,
    record_property: Record,
) -> None:
    case = SequenceCase(small(model, numbers), precision, 11, steps=8)
    record_property("excess", checks.chunk_beside(host_runner, kernel, case))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", CELL_PRECISIONS)
@pytest.mark.parametrize("cell", [(9, 896)], ids=str)
def test_a_cell_is_within_tolerance_of_the_host_build(
    checks: Checks, host_runner: HostRunner, cell: tuple[int, int], precision: Precision, record_property: Record
) -> None:
    record_property("excess", checks.cell_beside(host_runner, GruCase(*cell, precision)))


def test_without_a_gpu_the_error_names_the_driver_or_the_package() -> None:
    if find_library("cuda"):
        pytest.skip("this machine has a driver")
    with pytest.raises(KernelError, match=r"need an NVIDIA driver|pip install cuda-bindings"), primary_context():
        pass
