"""Whether each kernel is its numpy reference: odd sizes, every precision, every slot, chunks, CUDA graphs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.kernel_cases import SINGLE_STEP_EXCESS, Arrays, GruCase, SequenceCase, small_shapes
from wavernn_trt.plugins.sequence_reference import decode_sequence
from wavernn_trt.scripts.gpu.models import CHUNK_STEPS, STANDARD, StandardModel, long_chunk
from wavernn_trt.scripts.gpu.runners import DeviceRunner, HostRunner, Runner, kernel_cache
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Task

GRU_BATCHES, GRU_SIZES = (1, 2, 3, 4, 5, 8, 9, 17, 70, 256), (1, 7, 16, 33, 40, 130, 512, 896, 1030)
HOST_GRU_BATCHES, HOST_GRU_SIZES = (1, 3, 9), (1, 7, 40, 130)
SMALL = (7, 10, 37)
"""Hidden size, width of the fully connected layers, classes."""
SIZES = (SMALL, (1, 7, 11), (16, 24, 64), (33, 39, 101), (130, 77, 257))
FEW, MANY = (1, 3, 9), (2, 4, 5, 8, 17, 40)
"""Batches, for all sizes and for the first."""
FULL_STEPS, FULL_BATCHES = 12, (1, 5, 33)
GENERAL = Choice("sequence")
"""The kernel that every GPU runs."""
EQUAL_LABELS, LONG_TOLERANCE = 0.995, 1e-4
"""Of a long chunk beside the reference that is fed with its samples: equal labels at least, states' error at most."""


def tasks(settings: Settings) -> list[Task]:
    """All cases, the small ones of every kernel first."""
    checks = _Checks(settings)
    if settings.subset == "sanitizer":
        return list(_subset(checks))
    found: list[Task] = []
    for precision in PRECISIONS:
        found += _cells(checks, precision)
    for precision in PRECISIONS:
        found += _sequences(checks, precision)
    for precision in PRECISIONS:
        found += _full(checks, precision)
    return found


class _Checks:
    """What every task shares: who runs the kernels, made when the first task needs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @functools.cached_property
    def runner(self) -> Runner:
        folder = self.settings.folder
        return HostRunner(folder / "host") if self.settings.host else DeviceRunner(kernel_cache(folder))

    @functools.cached_property
    def second(self) -> HostRunner:
        try:
            return HostRunner(self.settings.folder / "host")
        except KernelError as error:
            raise MissingError(str(error).partition("\n")[0]) from error

    def cell(self, case: GruCase) -> Outcome:
        """Against the reference; through a graph, the same bits."""
        found = self.runner.gru_cell(case)
        excess = case.excess(found)
        if excess <= 1 and self.runner.captures:
            _expect_same(
                {"next_hidden": self.runner.gru_cell(case, captured=True)}, {"next_hidden": found}, "a CUDA graph"
            )
        return _within(excess)

    def cell_slots(self, case: GruCase) -> Outcome:
        """Moved to other slots, and alone, each stream has the same bits."""
        inputs, found = case.inputs(), self.runner.gru_cell(case)
        for order in _orders(case.batch):
            moved = {**inputs, "gates": inputs["gates"][order], "hidden": inputs["hidden"][order]}
            other = self.runner.gru_cell(dataclasses.replace(case, batch=len(order)), moved)
            _expect_same({"next_hidden": other}, {"next_hidden": found[order]}, f"streams {order.tolist()}")
        return Outcome("passed")

    def cell_host(self, case: GruCase) -> Outcome:
        """Against the host build."""
        expected, found = self.second.gru_cell(case), self.runner.gru_cell(case)
        difference = float(np.abs(found - expected).max())
        return Outcome("passed" if difference <= 1e-4 else "failed", f"differs by {difference:.2g}")

    def chunk(self, case: SequenceCase, most: float = 1.0, groups: int = 1) -> Outcome:
        """Against the reference; through a graph, the same bits."""
        inputs, choice = case.inputs(), Choice("sequence", groups)
        found = self.runner.sequence(case, inputs, choice=choice)
        excess = case.excess(found, inputs)
        if excess <= most and self.runner.captures:
            _expect_same(self.runner.sequence(case, inputs, choice=choice, captured=True), found, "a CUDA graph")
        return _within(excess, most)

    def chunk_slots(self, case: SequenceCase) -> Outcome:
        """Moved to other slots, and alone, each stream has the same bits."""
        inputs = case.inputs()
        found = self.runner.sequence(case, inputs, choice=GENERAL)
        for order in _orders(case.batch):
            other = dataclasses.replace(case, batch=len(order))
            moved = self.runner.sequence(other, _streams(case, inputs, order), choice=GENERAL)
            _expect_same(moved, _streams_of_outputs(case, found, order), f"streams {order.tolist()}")
        return Outcome("passed")

    def chunks(self, case: SequenceCase, inputs: Callable[[], Arrays]) -> Outcome:
        """Two chunks, one after the other, are one long chunk; and the long one again is itself."""
        values = inputs()
        whole = self.runner.sequence(case, values, choice=GENERAL)
        _expect_same(self.runner.sequence(case, values, choice=GENERAL), whole, "the same again")
        half = case.steps // 2
        state, samples = {name: values[name] for name in ("previous", "hidden")}, []
        for start, end in ((0, half), (half, case.steps)):
            part = dataclasses.replace(case, steps=end - start)
            found = self.runner.sequence(part, {**_steps(case, values, start, end), **state}, choice=GENERAL)
            state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}
            samples.append(found["samples"])
        joined = {"samples": np.concatenate(samples, axis=1), "previous_out": state["previous"]}
        _expect_same({**joined, "hidden_out": state["hidden"]}, whole, "two chunks")
        return Outcome("passed")

    def chunk_host(self, case: SequenceCase) -> Outcome:
        """Against the host build."""
        inputs = case.inputs()
        expected = self.second.sequence(case, inputs)
        fields = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
        return _within(
            _AgainstOther(**fields, other=expected).excess(self.runner.sequence(case, inputs, choice=GENERAL), inputs)
        )


@dataclass(frozen=True)
class _AgainstOther(SequenceCase):
    """A case whose reference is another's output."""

    other: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)

    def expected(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(self.other)


def _cells(checks: _Checks, precision: Precision) -> Iterator[Task]:
    subject, host = f"gru_cell {precision}", checks.settings.host
    batches, sizes = (HOST_GRU_BATCHES, HOST_GRU_SIZES) if host else (GRU_BATCHES, GRU_SIZES)
    for batch, size in itertools.product(batches, sizes):
        case = GruCase(batch, size, precision)
        yield Task(subject, "the reference", _cell_name(case), functools.partial(checks.cell, case))
    for batch, size in ((9, 33), (70, 130)):
        case = GruCase(batch, size, precision)
        yield Task(subject, "any slot", _cell_name(case), functools.partial(checks.cell_slots, case))
    if not host:
        for batch, size in ((3, 40), (9, 896)):
            case = GruCase(batch, size, precision)
            yield Task(subject, "the host build", _cell_name(case), functools.partial(checks.cell_host, case))


def _sequences(checks: _Checks, precision: Precision) -> Iterator[Task]:
    subject, host = f"sequence {precision}", checks.settings.host
    steps = 6 if host else 12
    for sizes in SIZES[:2] if host else SIZES:
        batches = FEW if host or sizes != SMALL else sorted(FEW + MANY)
        for (model, shape), batch in itertools.product(small_shapes(*sizes).items(), batches):
            case = SequenceCase(shape, precision, batch, steps=steps)
            yield Task(subject, "the reference", _name(model, case), functools.partial(checks.chunk, case))
    for model, shape in small_shapes().items():
        case = SequenceCase(shape, precision, 9, steps=1)
        if precision != "fp32":
            run = functools.partial(checks.chunk, case, most=SINGLE_STEP_EXCESS)
            yield Task(subject, "one step's rounding", _name(model, case), run)
        longer = dataclasses.replace(case, batch=11, steps=8)
        yield Task(subject, "any slot", _name(model, longer), functools.partial(checks.chunk_slots, longer))
        cut = dataclasses.replace(case, batch=3, steps=7)
        yield Task(subject, "two chunks", _name(model, cut), functools.partial(checks.chunks, cut, cut.inputs))
        for groups in (2, 3):
            run = functools.partial(checks.chunk, longer, groups=groups)
            yield Task(subject, "groups of blocks", f"{_name(model, longer)}, {groups} groups", run)
        if not host:
            run = functools.partial(checks.chunk_host, longer)
            yield Task(subject, "the host build", _name(model, longer), run)


def _full(checks: _Checks, precision: Precision) -> Iterator[Task]:
    subject, host = f"sequence {precision}", checks.settings.host
    for (name, model), batch in itertools.product(STANDARD.items(), (1, 3) if host else FULL_BATCHES):
        steps = 3 if host else FULL_STEPS
        case = SequenceCase(model.shape, precision, batch, steps, model.window(steps))
        yield Task(subject, "full sizes", _name(name, case), functools.partial(checks.chunk, case))
    for (name, model), batch in itertools.product(STANDARD.items(), () if host else (1, 9, 64)):
        run = functools.partial(_long, checks, model, precision, batch)
        yield Task(subject, "long chunks", f"{name}, batch {batch}", run)
    if precision == "fp32" and not host:
        for name, model in STANDARD.items():
            yield Task(subject, "long chunks", f"{name}, teacher-forced", functools.partial(_forced, checks, model))


def _long(checks: _Checks, model: StandardModel, precision: Precision, batch: int) -> Outcome:
    case, inputs = long_chunk(model, precision, batch)
    return checks.chunks(case, lambda: inputs)


def _forced(checks: _Checks, model: StandardModel, steps: int = CHUNK_STEPS) -> Outcome:
    """The reference, fed with a long chunk's own samples, draws the same, but where a random number is at an edge."""
    case, inputs = long_chunk(model, "fp32", 2, steps)
    found = checks.runner.sequence(case, inputs, choice=GENERAL)
    fed = found["samples"][:, :-1]
    if not case.shape.label_feedback:
        fed = (2 * fed.astype(np.float32) / np.float32(case.shape.outputs - 1) - 1).astype(np.float32)
    forced = np.concatenate([inputs["previous"][:, None], fed], axis=1)
    expected = decode_sequence(case.shape, inputs, "fp32", forced)
    equal = float((found["samples"] == expected["samples"]).mean())
    error = float(np.abs(found["hidden_out"] - expected["hidden_out"]).max())
    right = equal >= EQUAL_LABELS and error <= LONG_TOLERANCE
    numbers = {"equal_labels": equal, "hidden_error": error}
    return Outcome("passed" if right else "failed", f"{equal:.2%} of the labels, states by {error:.2g}", numbers)


def _subset(checks: _Checks) -> Iterator[Task]:
    for precision in ("fp32", "fp16"):
        for batch, size in ((1, 7), (9, 40)):
            case = GruCase(batch, size, precision)
            yield Task(f"gru_cell {precision}", "the reference", _cell_name(case), functools.partial(checks.cell, case))
        shapes = small_shapes()
        for model, batch in (("one layer, labels", 1), ("two layers, skip, values", 9), ("mixture", 3)):
            chunk = SequenceCase(shapes[model], precision, batch, steps=2)
            run = functools.partial(checks.chunk, chunk)
            yield Task(f"sequence {precision}", "the reference", _name(model, chunk), run)


def _within(excess: float, most: float = 1.0) -> Outcome:
    share = min(excess / most, 1e9)  # JSON knows no infinity
    return Outcome("passed" if share <= 1 else "failed", f"{share:.3g} of the tolerance", {"excess": share})


def _expect_same(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], what: str) -> None:
    for name, value in expected.items():
        differs = found[name].view(np.uint32) != value.view(np.uint32)  # bits, so that NaN is itself
        if differs.any():
            raise ValueError(f"{what}: {int(differs.sum())} of {value.size} values of {name} have other bits")


def _orders(batch: int) -> Sequence[NDArray[np.int64]]:
    """All streams in another order, the last few, and two of them alone."""
    order = np.random.default_rng(1).permutation(batch)
    return [order, np.arange(batch - 3, batch), np.array([0]), np.array([batch - 1])]


def _streams(case: SequenceCase, inputs: Arrays, order: NDArray[np.int64]) -> Arrays:
    moved = dict(inputs)
    for operand in case.shape.inputs():
        if "B" in operand.shape:
            moved[operand.name] = np.take(inputs[operand.name], order, operand.shape.index("B"))
    return moved


def _streams_of_outputs(case: SequenceCase, outputs: Arrays, order: NDArray[np.int64]) -> Arrays:
    axes = {operand.name: operand.shape.index("B") for operand in case.shape.outputs_of_node()}
    return {name: np.take(value, order, axes[name]) for name, value in outputs.items()}


def _steps(case: SequenceCase, inputs: Arrays, start: int, end: int) -> Arrays:
    cut = dict(inputs)
    for operand in case.shape.inputs():
        if "T" in operand.shape:
            axis = operand.shape.index("T")
            cut[operand.name] = np.take(inputs[operand.name], np.arange(start, end), axis)
    return cut


def _cell_name(case: GruCase) -> str:
    return f"{case.hidden_size} units, batch {case.batch}"


def _name(model: str, case: SequenceCase) -> str:
    return f"{model}, {case.shape.hidden_size} units, batch {case.batch}, {case.steps} steps"
