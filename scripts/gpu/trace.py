"""Cycles of each stage of a step inside one block, from the clocks that a trace build records."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache, KernelFile
from wavernn_trt.scripts.gpu.cases import STANDARD, choices_of
from wavernn_trt.scripts.gpu.cubins import TRACED_FILES
from wavernn_trt.scripts.gpu.findings import FindingsFile, task
from wavernn_trt.scripts.gpu.timed_chunks import TimedChunks

STEPS, BLOCKS, PLACES = 64, 256, 16
"""Sizes of the array in kernels/trace.h."""
FIRST_STEP = 8
"""Earlier steps are left out: their caches are cold."""
_NAMES = ("layer 0", "layer 1", "fully connected 0", "fully connected 1", "output", "draw")
STAGES = {
    "resident": tuple((name, place) for place, name in enumerate(_NAMES, 1)),
    "stepped": tuple((name, 2 * place + 1) for place, name in enumerate(_NAMES)),
}
"""By file: each stage and the place where it ends. It begins at the last earlier place that was reached."""
BETWEEN_LAUNCHES = ("stepped",)
"""Files whose stages are separate launches, which may run on different multiprocessors."""


def trace(findings: FindingsFile, cache: KernelCache, kernel: str, model: str, batches: Sequence[int]) -> None:
    """Runs a chunk of each batch in a trace build and records the median cycles of each stage."""
    for file in TRACED_FILES:
        for batch in batches if kernel.startswith(file) else ():
            name = f"{model} fp16 batch {batch} {kernel}"
            with task(findings, name, f"{kernel} trace", "fp16"):
                _trace(findings, name, cache, file, kernel, model, batch)


def _trace(
    findings: FindingsFile, name: str, cache: KernelCache, file: KernelFile, kernel: str, model: str, batch: int
) -> None:
    _, device = driver.current_device()
    with contextlib.closing(TimedChunks(STANDARD[model], "fp16", batch, cache, STEPS)) as chunks:
        choice = next((one for one, _ in choices_of(kernel, chunks.case.shape, "fp16", batch, device)), None)
        if choice is None:
            findings.add(name, "skipped", "it has no plan for this batch on this GPU")
            return
        chunks.work(choice, STEPS)(chunks.stream.handle)
        chunks.stream.synchronize()
        address, size = chunks.loaded.on_current_device().variable(file, "wavernn_trace")
        clocks = np.zeros((STEPS, BLOCKS, PLACES), np.int64)
        assert size == clocks.nbytes
        driver.call("cuMemcpyDtoH", clocks.ctypes.data, address, size)
    cycles = stage_cycles(file, clocks)
    text = ", ".join(f"{stage} {count:,.0f}" for stage, count in cycles.items())
    findings.add(name, "noted", f"cycles: {text}", numbers={"kind": "trace", "groups": choice.groups, "cycles": cycles})


def stage_cycles(file: str, clocks: NDArray[np.int64]) -> dict[str, float]:
    """Returns median cycles by stage, and of a whole step if one launch has all stages.

    Args:
        file: of the kernel; one of `TRACED_FILES`.
        clocks: [steps, blocks, places]; 0 where a place was not reached.
    """
    found: dict[str, float] = {}
    seen = clocks[FIRST_STEP:]
    begin = seen[..., 0]
    for stage, place in STAGES[file]:
        end = seen[..., place]
        if file in BETWEEN_LAUNCHES:
            begin = seen[..., place - 1]
        both = (begin > 0) & (end > 0)
        if both.any():
            found[stage] = float(np.median((end - begin)[both]))
            begin = np.where(end > 0, end, begin)
    if file not in BETWEEN_LAUNCHES:
        steps = np.diff(seen[..., 0], axis=0)[(seen[:-1, :, 0] > 0) & (seen[1:, :, 0] > 0)]
        if steps.size:
            found["step"] = float(np.median(steps))
    return found
