"""Whether each kernel is its numpy reference: odd sizes, every precision, every slot, chunks, CUDA graphs.

The smallest cases of every kernel come first, so that the first lines tell which of them works at all.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

from wavernn_trt.export.operators import PRECISIONS, Precision, SequenceShape
from wavernn_trt.plugins.choice import candidates
from wavernn_trt.plugins.forms import KERNELS, form_of
from wavernn_trt.plugins.kernel_cases import SINGLE_STEP_EXCESS, GruCase, SequenceCase, small_shapes
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.targets import Device
from wavernn_trt.scripts.gpu.checks import Checks
from wavernn_trt.scripts.gpu.models import CHUNK_STEPS, STANDARD
from wavernn_trt.scripts.gpu.tasks import Outcome, Settings, Task

GRU_BATCHES, GRU_SIZES = (1, 2, 3, 5, 8, 9, 70, 256), (1, 7, 16, 33, 130, 896, 1030)
HOST_GRU_BATCHES, HOST_GRU_SIZES = (1, 3, 9), (1, 7, 40)
SMALL = (7, 10, 37)
"""Hidden size, width of the fully connected layers, classes."""
SIZES = ((1, 7, 11), (16, 24, 64), (33, 39, 101), (130, 77, 257))
"""The others."""
FEW, MANY = (1, 3, 9), (2, 4, 5, 8, 17, 40)
"""Batches, for all kinds of models and for one."""
SEVERAL = 3
"""Only every third kind of model, another third for each kernel, where all would tell little more."""
STEPS, HOST_STEPS = 12, 4
ONE_BLOCK, MANY_BLOCKS = (7, 8, 8), (130, 77, 257)
"""Sizes of the first launches: as much as one block computes, and something for many."""
FIRST = "first launches"
ORDER: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8", "fp32")
"""What is asked for most comes first."""
SHORT, SHORT_BATCHES = 48, (1, 33)
LONG_BATCH = 2
_ANY = Device.of("", 90, 132)
"""A GPU that runs every kernel; one that the GPU at hand does not run says so in its own task."""


def tasks(settings: Settings) -> list[Task]:
    """All cases, the small ones of every kernel first."""
    checks = Checks(settings)
    if settings.subset == "sanitizer":
        return list(_subset(checks))
    build = Task("built by g++", "the host build", "", checks.build)
    found = [build, *_first(checks)] if settings.host else [*_first(checks), build]
    for precision in ORDER:
        for several in (_small, _properties, _full):
            found += several(checks, precision)
        if precision in PRECISIONS and settings.wants("gru_cell"):
            found += _cells(checks, precision)
    return found


def kernels_in(settings: Settings, precision: WeightPrecision) -> list[str]:
    """The kernels that are asked about and that have a precision on some GPU."""
    wanted = (kernel for kernel in KERNELS if settings.wants(kernel))
    return [kernel for kernel in wanted if form_of(kernel).refusal(precision, _ANY) is None]


def _first(checks: Checks) -> Iterator[Task]:
    """One block, many blocks, several streams: of every kernel, in the precision that is asked for most."""
    host = checks.settings.host
    sizes: tuple[tuple[tuple[int, int, int], int, int], ...] = (
        (ONE_BLOCK, 1, 1),
        (ONE_BLOCK, 1, 4),
        (MANY_BLOCKS, 1, 4),
        (MANY_BLOCKS, 5, 4),
    )
    for numbers, batch, steps in sizes[: 2 if host else None]:
        model, shape = next(iter(small_shapes(*numbers).items()))
        for precision in ORDER:
            for kernel in kernels_in(checks.settings, precision):
                case = SequenceCase(shape, precision, batch, steps=steps)
                yield _task(kernel, precision, FIRST, _name(model, case), _bind(checks.chunk, kernel, case))


def _cells(checks: Checks, precision: Precision) -> Iterator[Task]:
    host = checks.settings.host
    batches, sizes = (HOST_GRU_BATCHES, HOST_GRU_SIZES) if host else (GRU_BATCHES, GRU_SIZES)
    for batch, size in itertools.product(batches, sizes):
        case = GruCase(batch, size, precision)
        yield _task("gru_cell", precision, "the reference", _cell_name(case), _bind(checks.cell, case))
    case = GruCase(9, 33, precision)
    yield _task("gru_cell", precision, "any slot", _cell_name(case), _bind(checks.cell_slots, case))
    if not host:
        case = GruCase(9, 896, precision)
        yield _task("gru_cell", precision, "the host build", _cell_name(case), _bind(checks.cell_host, case))


def _small(checks: Checks, precision: WeightPrecision) -> Iterator[Task]:
    """All kinds of small models; the kernels take turns in a case, whose reference is computed once."""
    host = checks.settings.host
    kernels = kernels_in(checks.settings, precision)
    kinds = small_shapes(*SMALL)
    cases = [(model, shape, batch) for (model, shape), batch in itertools.product(kinds.items(), FEW)]
    several = list(itertools.islice(cases, 0, None, 4)) if host else cases
    for model, shape, batch in several:
        yield from _chunks(checks, kernels, model, SequenceCase(shape, precision, batch, HOST_STEPS if host else STEPS))
    if host:
        return
    two = "two layers, skip, values"
    for batch in MANY:
        yield from _chunks(checks, kernels, two, SequenceCase(kinds[two], precision, batch, STEPS))
    for turn, sizes in enumerate(SIZES):
        for model, shape in _third(small_shapes(*sizes), turn):
            for batch in (1, 9):
                yield from _chunks(checks, kernels, model, SequenceCase(shape, precision, batch, STEPS))


def _chunks(checks: Checks, kernels: list[str], model: str, case: SequenceCase) -> Iterator[Task]:
    for kernel in kernels:
        run = _bind(checks.chunk, kernel, case)
        yield _task(kernel, case.precision, "the reference", _name(model, case), run)


def _properties(checks: Checks, precision: WeightPrecision) -> Iterator[Task]:
    """What has to hold of every chunk, each in several models."""
    host = checks.settings.host
    for turn, kernel in enumerate(kernels_in(checks.settings, precision)):
        for model, shape in _third(small_shapes(*SMALL), turn)[: 1 if host else None]:
            one = SequenceCase(shape, precision, 9, steps=1)
            several, cut = dataclasses.replace(one, batch=11, steps=8), dataclasses.replace(one, batch=3, steps=7)
            found: list[tuple[str, SequenceCase, str, Callable[[], Outcome]]] = [
                ("any slot", several, "", _bind(checks.chunk_slots, kernel, several)),
                ("two chunks", cut, "", _bind(checks.chunks, kernel, cut)),
            ]
            if precision != "fp32":
                run = functools.partial(checks.chunk, kernel, one, most=SINGLE_STEP_EXCESS)
                found.append(("one step's rounding", one, "", run))
            for groups in (2, 3) if _takes_groups(kernel, several) else ():
                run = functools.partial(checks.chunk, kernel, several, groups=groups)
                found.append(("groups of blocks", several, f", {groups} groups", run))
            if not host:
                found.append(("the host build", several, "", _bind(checks.chunk_host, kernel, several)))
            for line, case, more, check in found:
                yield _task(kernel, precision, line, _name(model, case) + more, check)


def _full(checks: Checks, precision: WeightPrecision) -> Iterator[Task]:
    """The published sizes: in short chunks of one and of many streams, and in long ones."""
    host, kernels = checks.settings.host, kernels_in(checks.settings, precision)
    if host and precision != "fp16":
        return
    for name, model in STANDARD.items():
        # bf16 and fp8 differ from fp16 in the products alone: one model is enough.
        if precision in ("bf16", "fp8") and name != next(iter(STANDARD)):
            continue
        sizes = [(LONG_BATCH, CHUNK_STEPS), *((batch, SHORT) for batch in SHORT_BATCHES)]
        for batch, steps in [(1, 2)] if host else sizes:
            line = "long chunks" if steps == CHUNK_STEPS else "full sizes"
            text = f"{name}, batch {batch}, {steps} steps"
            checked = (model, precision, batch, steps)
            if steps == CHUNK_STEPS:
                for kernel in kernels:
                    run = functools.partial(checks.launch_full, kernel, *checked)
                    yield _task(kernel, precision, "long chunks", f"{text}, cut", run, large=True)
            for kernel in kernels:
                run = functools.partial(checks.full, kernel, *checked)
                yield _task(kernel, precision, line, f"{text}, teacher-forced", run, large=True)


def _subset(checks: Checks) -> Iterator[Task]:
    """One small case of each kernel, in the precision that is asked for most, and those of the others that differ."""
    for kernel in ("gru_cell", *KERNELS):
        if not checks.settings.wants(kernel):
            continue
        if kernel == "gru_cell":
            cell = GruCase(9, 40, "fp16")
            yield _task(kernel, "fp16", "the reference", _cell_name(cell), _bind(checks.cell, cell))
            continue
        model = "two layers, skip, values"
        other: WeightPrecision = "fp8" if form_of(kernel).refusal("fp8", _ANY) is None else "fp32"
        precisions: tuple[WeightPrecision, ...] = ("fp16", other)
        for precision in precisions:
            case = SequenceCase(small_shapes()[model], precision, 9, steps=2)
            yield _task(kernel, precision, "the reference", _name(model, case), _bind(checks.chunk, kernel, case))


def _takes_groups(kernel: str, case: SequenceCase) -> bool:
    found = candidates(case.shape, case.precision, case.batch, _ANY)
    return any(choice.kernel == kernel and choice.groups > 1 for choice, _ in found)


def _third(shapes: dict[str, SequenceShape], turn: int) -> list[tuple[str, SequenceShape]]:
    return list(shapes.items())[turn % SEVERAL :: SEVERAL]


def _task(
    kernel: str, precision: str, line: str, name: str, run: Callable[[], Outcome], *, large: bool = False
) -> Task:
    return Task(f"{kernel} {precision}", line, name, run, kernel, large)


def _bind(run: Callable[..., Outcome], *arguments: object) -> Callable[[], Outcome]:
    return functools.partial(run, *arguments)


def _cell_name(case: GruCase) -> str:
    return f"{case.hidden_size} units, batch {case.batch}"


def _name(model: str, case: SequenceCase) -> str:
    return f"{model}, {case.shape.hidden_size} units, batch {case.batch}, {case.steps} steps"
