"""Reads the trace build's clocks: cycles of each stage of a step, inside one block."""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache, KernelFile
from wavernn_trt.scripts.gpu.choices import choices_of
from wavernn_trt.scripts.gpu.cubins import TRACED_FILES
from wavernn_trt.scripts.gpu.findings import FindingsFile
from wavernn_trt.scripts.gpu.models import STANDARD
from wavernn_trt.scripts.gpu.timed_chunks import TimedChunks

STEPS, BLOCKS, PLACES = 64, 256, 16
"""Sizes of the array in kernels/trace.h."""
FIRST_STEP = 8
"""Steps before it, in which caches are cold, are left out."""
_NAMES = ("layer 0", "layer 1", "fully connected 0", "fully connected 1", "output", "draw")
STAGES = {
    "resident": tuple((name, place) for place, name in enumerate(_NAMES, 1)),
    "stepped": tuple((name, 2 * place + 1) for place, name in enumerate(_NAMES)),
}
"""By file: each stage and the place that it ends at. It begins at the last place before it that was reached."""
BETWEEN_LAUNCHES = ("stepped",)
"""Files whose stages are launches: a block of another one may run on another multiprocessor."""


def trace_kernel(
    findings: FindingsFile, cache: KernelCache, file: KernelFile, kernel: str, model: str, batch: int
) -> None:
    """Runs a chunk in a trace build and records the median cycles of each stage.

    Args:
        findings: where to.
        cache: of the trace build.
        file: of the kernel.
        kernel: which.
        model: of `STANDARD`.
        batch: streams.
    """
    name = f"{model} fp16 batch {batch} {kernel}"
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
    """Returns median cycles by stage, and of a whole step where one launch has all of them.

    Args:
        file: of the kernel; one of `TRACED_FILES`.
        clocks: [steps, blocks, places]; 0 where a place was not reached.
    """
    if file not in TRACED_FILES:
        raise ValueError(f"file: found {file!r}, expected one of {', '.join(TRACED_FILES)}")
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
