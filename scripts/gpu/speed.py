"""How fast the kernels are that were right: every kernel that may be the best for a batch, and then the best two.

What PyTorch does at the same batch is timed right behind them, in the same process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from statistics import median

from wavernn_trt.export.operators import PRECISIONS
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.choice_table import FILE, Row, read_rows, write_rows
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.scripts.gpu.cell_speed import cell_tasks
from wavernn_trt.scripts.gpu.correctness import kernels_in
from wavernn_trt.scripts.gpu.environment import clocks
from wavernn_trt.scripts.gpu.journal import Journal, Timed
from wavernn_trt.scripts.gpu.measuring import SHORT_RUNS, repeats, require_proved, speeds
from wavernn_trt.scripts.gpu.models import CHUNK_STEPS, STANDARD
from wavernn_trt.scripts.gpu.peer_speed import ceiling_tasks, graph_task, loop_task
from wavernn_trt.scripts.gpu.runners import kernel_cache
from wavernn_trt.scripts.gpu.targets import FATCHORD, UNIVOC
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Task
from wavernn_trt.scripts.gpu.timed_chunks import TimedChunks

BATCHES = (1, 1024, 64, 4096, 8, 256, 16, 2048, 32, 128, 512, 2, 4)
"""Those that say most come first, in case that time runs out."""
FEW_BATCHES = (1, 64, 1024, 8)
"""Where all would tell little more."""
FIRST_BATCHES = 1
"""Of each model, that come before everything else."""
SHORT_STEPS = 64
"""Of the chunks by which kernels are ranked."""
BEST = 2
"""So many of them are timed with long chunks."""
PATIENCE, LESS_STEPS = 0.05, 128
"""Seconds that a long chunk may take; a slower one has fewer steps."""


def tasks(settings: Settings) -> list[Task]:
    """Ceilings first, then what is asked for most."""
    found = [Task("clocks", "at the beginning", "", functools.partial(_begin, settings)), *ceiling_tasks()]
    chunks = _Chunks(settings)
    for name in (UNIVOC, FATCHORD):
        found += _batch(chunks, name, "fp16", 1)
        found.append(loop_task(name, 1))
    for batch in BATCHES[FIRST_BATCHES:]:
        found += _batch(chunks, UNIVOC, "fp16", batch)
    for batch in FEW_BATCHES[1:]:
        found += _batch(chunks, FATCHORD, "fp16", batch)
    for precision in ("fp8", "bf16"):
        for batch in FEW_BATCHES:
            found += _batch(chunks, UNIVOC, precision, batch)
    return [*found, *cell_tasks(settings), Task("clocks", "at the end", "", clocks)]


def _batch(chunks: _Chunks, name: str, precision: WeightPrecision, batch: int) -> Iterator[Task]:
    """Each kernel in a task of its own, so that one which does not end leaves the others their numbers."""
    line = f"{name}, batch {batch}"
    for kernel in kernels_in(chunks.settings, precision):
        run = functools.partial(_candidate, chunks, name, precision, batch, kernel)
        yield Task(f"{kernel} {precision}", line, "a short chunk", run, kernel)
    yield Task(f"best {precision}", line, "", functools.partial(_best, chunks, name, precision, batch))
    if precision in PRECISIONS:
        yield graph_task(name, precision, batch)


class _Chunks:
    """What is on the GPU: one model, precision and batch at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.journal = Journal(settings.folder)
        self._key: tuple[str, WeightPrecision, int] | None = None
        self._held: TimedChunks | None = None

    def get(self, name: str, precision: WeightPrecision, batch: int) -> TimedChunks:
        key = (name, precision, batch)
        if self._held is None or self._key != key:
            if self._held is not None:
                self._held.close()
                self._held = None
            cache = kernel_cache(self.settings.folder)
            self._held = TimedChunks(STANDARD[name], precision, batch, cache, CHUNK_STEPS)
            self._key = key
        return self._held

    def right(self, precision: WeightPrecision) -> list[str]:
        """Kernels that may be timed."""
        kernels = kernels_in(self.settings, precision)
        return [kernel for kernel in kernels if f"{kernel} {precision}" in self.settings.proved]


def _begin(settings: Settings) -> Outcome:
    Journal(settings.folder).clear()
    return clocks()


def _candidate(chunks: _Chunks, name: str, precision: WeightPrecision, batch: int, kernel: str) -> Outcome:
    require_proved(chunks.settings, f"{kernel} {precision}")
    held = chunks.get(name, precision, batch)
    choices = [choice for choice in held.shortlist(chunks.right(precision)) if choice.kernel == kernel]
    if not choices:
        return Outcome("noted", "no plan of it takes the batch, or others were timed")
    times = []
    for choice in choices:
        held.check(choice)
        taken = repeats(functools.partial(held.launch, choice, SHORT_STEPS), SHORT_RUNS)
        times.append(1e6 * median(taken) / SHORT_STEPS)
        row = Timed(name, precision, batch, choice.kernel, choice.groups, SHORT_STEPS, times[-1])
        chunks.journal.add(row)
    told = (f"{choice.groups} groups {time:.2f} us" for choice, time in zip(choices, times, strict=True))
    return Outcome("noted", ", ".join(told), {"kind": "candidate", "step_us": times})


def _best(chunks: _Chunks, name: str, precision: WeightPrecision, batch: int) -> Outcome:
    ranked = list(chunks.journal.of(name, precision, batch))
    if not ranked:
        raise MissingError("not timed: no kernel was right, or the time was up")
    held = chunks.get(name, precision, batch)
    results = []
    for choice in ranked[:BEST]:
        held.launch(choice, LESS_STEPS)
        steps = CHUNK_STEPS if held.launch(choice, CHUNK_STEPS) <= PATIENCE else LESS_STEPS
        held.require_whole(choice, CHUNK_STEPS)
        taken = repeats(functools.partial(held.launch, choice, steps))
        results.append((median(taken) / steps, choice, [batch * steps / seconds for seconds in taken], steps))
        chunks.journal.add(
            Timed(name, precision, batch, choice.kernel, choice.groups, CHUNK_STEPS, 1e6 * results[-1][0])
        )
    step, choice, values, steps = min(results, key=lambda one: one[0])
    _keep(chunks, name, precision, batch)
    return Outcome("noted", f"{median(values):,.0f} samples/s by {choice}", {
        **speeds(values),
        **_plan_numbers(held, choice),
        "kind": "sequence",
        "model": name,
        "precision": precision,
        "batch": batch,
        "steps": steps,
        "kernel": choice.kernel,
        "groups": choice.groups,
        "step_us": 1e6 * step,
        "flops": 2 * STANDARD[name].multiply_adds * median(values),
        "weight_bytes_per_second": WEIGHT_BYTES[precision] * STANDARD[name].multiply_adds / step,
    })  # fmt: skip


def _keep(chunks: _Chunks, name: str, precision: WeightPrecision, batch: int) -> None:
    """Puts what was timed where the runtime looks for it."""
    _, device = driver.current_device()
    path = kernel_cache(chunks.settings.folder).folder / FILE
    best = next(iter(chunks.journal.of(name, precision, batch)))
    row = Row((device.sm, device.sm), (precision,), (batch, batch), best.kernel, best.groups)
    old = read_rows(path) if path.exists() else ()
    kept = [one for one in old if (one.sm, one.precisions, one.batch) != (row.sm, row.precisions, row.batch)]
    write_rows(path, [row, *kept])


def _plan_numbers(held: TimedChunks, choice: Choice) -> dict[str, object]:
    """What the plan says of itself, whatever form it has."""
    plan = held.plans()[choice]
    names = ("grid", "blocks", "shared_bytes", "resident_share")
    return {name: getattr(plan, name) for name in names if hasattr(plan, name)}
