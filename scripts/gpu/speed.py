"""``python -m wavernn_trt.scripts.gpu.speed``: one timing part of `wavernn_trt.scripts.gpu.run`, in its own process.

It appends to the run's file of findings.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from wavernn_trt.export import operators
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.choices import KERNELS, family_of
from wavernn_trt.plugins.compile import WEIGHTS, KernelCache
from wavernn_trt.plugins.device_stream import DeviceStream, on_device
from wavernn_trt.plugins.driver import primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.gru_cell import GruCellKernel
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.scripts.arguments import path, positive_integers
from wavernn_trt.scripts.gpu.cases import CHUNK_STEPS, STANDARD, CellCase, choices_of, kernels_with
from wavernn_trt.scripts.gpu.cubins import TRACE, VARIANTS, open_cubins
from wavernn_trt.scripts.gpu.findings import FindingsFile, task
from wavernn_trt.scripts.gpu.resources import resource_report
from wavernn_trt.scripts.gpu.timed_chunks import RUNS, TimedChunks, repeats
from wavernn_trt.scripts.gpu.trace import trace

PARTS = ("load", "time", "trace", "cells", "peers", "once")
BATCHES = (1, 8, 64, 512, 4096)
SHORT_RUNS = 7
SHORT_STEPS = 64
"""Steps of the chunks by which the numbers of groups are ranked."""
BEST = 2
"""How many of the best numbers of groups are timed with long chunks."""
PATIENCE, LESS_STEPS = 0.05, 128
"""Longest time of a long chunk in seconds, and the number of steps if it takes longer."""
PRUNED = 2.0
"""A number of groups slower than the best by more than this factor is timed once only."""
CELL_UNITS, CELL_BATCHES, CELLS = 896, (1, 16, 256), 64
"""Sizes of GRU cells, and number of cells in one CUDA graph."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one part and returns 0; failures become findings."""
    parser = argparse.ArgumentParser(prog="python -m wavernn_trt.scripts.gpu.speed", description=__doc__)
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--findings", type=path, required=True, help="file of JSON lines to append to")
    parser.add_argument("--part", required=True, help="name of the part in the findings")
    parser.add_argument("--cubins", type=path, help="folder of 'run --prebuild'")
    parser.add_argument("--work", type=path, required=True, help="folder for kernels compiled here")
    parser.add_argument("--kernel", choices=KERNELS, help="for time and once")
    parser.add_argument("--model", choices=tuple(STANDARD), default=next(iter(STANDARD)))
    parser.add_argument("--precision", choices=WEIGHT_PRECISIONS, default="fp16")
    parser.add_argument("--batches", type=positive_integers, default=BATCHES)
    parser.add_argument("--variant", choices=tuple(VARIANTS), help="compile-time switches; none unless given")
    arguments = parser.parse_args(argv)
    findings = FindingsFile(arguments.findings, arguments.part)
    switches = VARIANTS[arguments.variant].switches if arguments.variant else ()
    if arguments.what == "trace":
        switches = (TRACE,)
    cache, origin = open_cubins(arguments.cubins, arguments.work / "kernels", switches)
    with primary_context():
        if arguments.what == "load":
            load(findings, cache, origin)
        elif arguments.what == "cells":
            time_cells(findings, cache)
        elif arguments.what == "peers":
            from wavernn_trt.scripts.gpu.peers import time_peers  # loads torch

            time_peers(findings, arguments.model)
        elif arguments.kernel is None:
            parser.error(f"{arguments.what} needs --kernel")
        elif arguments.what == "trace":
            trace(findings, cache, arguments.kernel, arguments.model, arguments.batches)
        elif arguments.what == "once":
            launch_once(cache, arguments.kernel, arguments.model, arguments.precision, arguments.batches[0])
        else:
            label = " ".join(filter(None, (arguments.kernel, arguments.variant)))
            time_kernel(
                findings, cache, arguments.kernel, arguments.model, arguments.precision, arguments.batches, label
            )
    return 0


def load(findings: FindingsFile, cache: KernelCache, origin: str) -> None:
    """Loads every cubin and checks the occupancy of every plan; launches nothing."""
    ordinal, device = driver.current_device()
    (version,) = driver.call("cuDriverGetVersion")
    attribute = driver.constant("CUdevice_attribute", "CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE")
    (l2,) = driver.call("cuDeviceGetAttribute", attribute, ordinal)
    _, memory = driver.call("cuMemGetInfo")
    text = (
        f"{device.name}, sm_{device.sm}, {device.multiprocessors} multiprocessors, {memory / 2**30:.1f} GiB, "
        f"{device.shared_per_block // 1024} KiB shared a block, L2 {l2 >> 20} MiB, driver of CUDA "
        f"{version // 1000}.{version % 1000 // 10}"
    )
    numbers = {"sm": device.sm, "multiprocessors": device.multiprocessors, "memory_bytes": memory, "l2_bytes": l2}
    findings.add("GPU", "noted", text, numbers={**numbers, "name": device.name, "driver": version})
    findings.add("cubins", "noted", origin)
    loaded: dict[WeightPrecision, LoadedKernels] = {}
    for file, precisions in WEIGHTS.items():
        for precision in precisions:
            name = f"{file} {precision}"
            with task(findings, name):
                kernels = loaded.setdefault(precision, LoadedKernels(ordinal, device, precision, cache))
                found = resource_report([cache.get(file, precision, device.sm)])
                for one in found:
                    kernels.get(file, one.kernel)
                spilled = sum(one.spill_stores + one.spill_loads for one in found)
                registers = max(one.registers for one in found)
                text = f"{len(found)} kernels loaded, at most {registers} registers, {spilled} bytes spilled"
                rows = {one.kernel: one.registers for one in found}
                findings.add(name, "failed" if spilled else "passed", text, numbers={"registers": rows})
    for precision, kernels in loaded.items():
        for kernel in kernels_with(precision):
            _occupancy(findings, kernels, kernel, precision)


def _occupancy(findings: FindingsFile, kernels: LoadedKernels, kernel: str, precision: WeightPrecision) -> None:
    name = f"{kernel} {precision} occupancy"
    with task(findings, name):
        fitting, refused = [], []
        for model, standard in STANDARD.items():
            for batch in BATCHES:
                for choice, plan in choices_of(kernel, standard.shape, precision, batch, kernels.device):
                    where = f"{model} batch {batch} groups {choice.groups}"
                    try:
                        family_of(kernel).check(kernels, plan)
                        fitting.append(where)
                    except KernelError as error:
                        refused.append(f"{where}: {error}")
        text = f"{len(fitting)} plans fit, {len(refused)} do not" + (f": {refused[0]}" if refused else "")
        numbers = {"fit": fitting, "refused": refused}
        findings.add(name, "passed" if fitting or not refused else "failed", text, numbers=numbers)


def time_kernel(
    findings: FindingsFile,
    cache: KernelCache,
    kernel: str,
    model: str,
    precision: WeightPrecision,
    batches: Sequence[int],
    label: str,
) -> None:
    """Times one kernel at each batch with its best number of groups, after a check of the first step."""
    for batch in batches:
        name = f"{model} {precision} batch {batch} {label}"
        with task(findings, name, label, precision):
            chunks = TimedChunks(STANDARD[model], precision, batch, cache, CHUNK_STEPS)
            with contextlib.closing(chunks):
                numbers, refused = _best(chunks, kernel)
            if not numbers:
                findings.add(name, "skipped", refused or "it has no plan for this batch on this GPU")
                continue
            step, values = numbers["step_us"], numbers["repeats"]
            adds = STANDARD[model].multiply_adds
            numbers |= {
                "kind": "kernel",
                "model": model,
                "batch": batch,
                "samples_per_second": batch / step * 1e6,
                "flops": 2 * adds * batch / step * 1e6,
                "weight_bytes_per_second": WEIGHT_BYTES[precision] * adds / step * 1e6,
            }
            spread = (max(values) - min(values)) / median(values)
            text = f"{step:.2f} us a step, {numbers['samples_per_second']:,.0f} samples/s, spread {100 * spread:.1f} %"
            findings.add(name, "noted", text, numbers=numbers)


def _best(chunks: TimedChunks, kernel: str) -> tuple[dict[str, Any], str]:
    """Returns the measurements of the fastest number of groups, or the reason why there is none."""
    _, device = driver.current_device()
    case, refused = chunks.case, ""
    ranked: dict[Choice, float] = {}
    for choice, _ in choices_of(kernel, case.shape, case.precision, case.batch, device):
        try:
            chunks.work(choice, 1)
        except KernelError as error:
            if driver.is_lost():
                raise
            refused = str(error)
            continue
        chunks.check_first_step(choice)
        once = functools.partial(chunks.seconds, choice, SHORT_STEPS)
        once()
        ranked[choice] = once()
        if ranked[choice] <= PRUNED * min(ranked.values()):
            ranked[choice] = median(repeats(once, SHORT_RUNS))
    results: list[dict[str, Any]] = []
    for choice in sorted(ranked, key=lambda one: ranked[one])[:BEST]:
        chunks.seconds(choice, LESS_STEPS)
        steps = CHUNK_STEPS if chunks.seconds(choice, CHUNK_STEPS) <= PATIENCE else LESS_STEPS
        chunks.check_range(choice, CHUNK_STEPS)
        long = functools.partial(chunks.seconds, choice, steps)
        taken = [1e6 * seconds / steps for seconds in repeats(long, RUNS)]
        results.append({"groups": choice.groups, "steps": steps, "step_us": median(taken), "repeats": taken})
    if not results:
        return {}, refused
    best = min(results, key=lambda one: float(one["step_us"]))
    short = [{"groups": one.groups, "step_us": 1e6 * time / SHORT_STEPS} for one, time in ranked.items()]
    return {**best, "short_chunks": short}, ""


def launch_once(cache: KernelCache, kernel: str, model: str, precision: WeightPrecision, batch: int) -> None:
    """Launches a short chunk without a graph, for a profiler."""
    _, device = driver.current_device()
    with contextlib.closing(TimedChunks(STANDARD[model], precision, batch, cache, SHORT_STEPS)) as chunks:
        for choice, _ in choices_of(kernel, chunks.case.shape, precision, batch, device):
            chunks.work(choice, 4)(chunks.stream.handle)
            chunks.stream.synchronize()
            return


def time_cells(findings: FindingsFile, cache: KernelCache) -> None:
    """Times single GRU cells, which some plans launch in every step."""
    for precision in operators.PRECISIONS:
        for batch in CELL_BATCHES:
            name = f"gru_cell {precision} batch {batch}"
            with task(findings, name, "gru_cell", precision):
                taken = _cell_seconds(cache, precision, batch)
                bytes_a_second = 3 * CELL_UNITS**2 * WEIGHT_BYTES[precision] / median(taken)
                text = f"{1e6 * median(taken):.2f} us a cell of {CELL_UNITS} units, {bytes_a_second / 1e9:,.0f} GB/s"
                numbers = {"kind": "cell", "batch": batch, "seconds": median(taken), "repeats": taken}
                findings.add(name, "noted", text, numbers=numbers)


def _cell_seconds(cache: KernelCache, precision: operators.Precision, batch: int) -> list[float]:
    case = CellCase(batch, CELL_UNITS, precision)
    kernel = GruCellKernel(CELL_UNITS, precision, cache)
    kernel.prepare()
    following = np.full((batch, CELL_UNITS), np.nan, np.float32)
    with (
        contextlib.closing(DeviceStream()) as stream,
        on_device([*case.inputs().values(), following]) as (pointers, fetch),
    ):
        gates, one, weight, bias, other = pointers

        def work(handle: int) -> None:
            for _ in range(CELLS // 2):  # each cell reads the state that the one before wrote, as steps do
                kernel.launch(batch, [gates, one, weight, bias, other], handle)
                kernel.launch(batch, [gates, other, weight, bias, one], handle)

        replay = stream.captured(work)
        taken = [seconds / CELLS for seconds in repeats(lambda: stream.seconds(replay), RUNS)]
        fetch()
    if not np.isfinite(following).all():
        raise ValueError("the timed cells wrote states that are not finite")
    return taken


if __name__ == "__main__":
    sys.exit(main())
